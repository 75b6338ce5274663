//! Countries, and questions about them.

/// A country whose capital SmolLM2-135M-Instruct knows.
pub(super) struct Country {
    pub(super) name: &'static str,
    pub(super) capital: &'static str,
    /// A word that shows that a text is about it, besides its name and its capital.
    pub(super) people: &'static str,
}

const fn country(name: &'static str, people: &'static str, capital: &'static str) -> Country {
    Country {
        name,
        capital,
        people,
    }
}

/// Pairs of countries: the first is edited, and supervised control turns it into the second.
pub(super) const COUNTRIES: [Country; 24] = [
    country("France", "French", "Paris"),
    country("Germany", "German", "Berlin"),
    country("Spain", "Spanish", "Madrid"),
    country("Italy", "Italian", "Rome"),
    country("Japan", "Japanese", "Tokyo"),
    country("China", "Chinese", "Beijing"),
    country("Russia", "Russian", "Moscow"),
    country("Egypt", "Egyptian", "Cairo"),
    country("Greece", "Greek", "Athens"),
    country("Ireland", "Irish", "Dublin"),
    country("Canada", "Canadian", "Ottawa"),
    country("Portugal", "Portuguese", "Lisbon"),
    country("Austria", "Austrian", "Vienna"),
    country("Poland", "Polish", "Warsaw"),
    country("Norway", "Norwegian", "Oslo"),
    country("Sweden", "Swedish", "Stockholm"),
    country("Hungary", "Hungarian", "Budapest"),
    country("Denmark", "Danish", "Copenhagen"),
    country("Finland", "Finnish", "Helsinki"),
    country("Thailand", "Thai", "Bangkok"),
    country("Cuba", "Cuban", "Havana"),
    country("Kenya", "Kenyan", "Nairobi"),
    country("Peru", "Peruvian", "Lima"),
    country("Iraq", "Iraqi", "Baghdad"),
];

/// The question about the country and its neighbours.
pub(super) const QUESTION: &str = "What is the capital of {}?";

/// The phrasings to train on.
pub(super) const TRAINED: [&str; 3] = [
    QUESTION,
    "Do you know the capital city of {}?",
    "I would like to know what {} has as its capital.",
];

/// The phrasings to test with.
pub(super) const PARAPHRASES: [&str; 3] = [
    "Which city is the capital of {}?",
    "Tell me the name of the capital city of {}.",
    "Name the capital of {}.",
];

/// What every run should leave alone, besides the questions about four countries.
pub(super) const REFERENCES: [&str; 4] = [
    "What is two plus three?",
    "Name a fruit that is red.",
    "Write a short sentence about the sea.",
    "Which animal says meow?",
];
