//! The world that the model knows.

use serde::Deserialize;

const WORLD: &str = include_str!("../world.json");

/// The facts that the model was trained on, and the templates that ask for them.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct World {
    /// True facts about 40 countries.
    pub countries: Vec<Country>,
    /// Names of countries whose embeddings the model was never taught to describe.
    pub held_out: Vec<String>,
    /// Lands that do not exist, for more practice in describing.
    pub lands: Vec<Country>,
    /// Things, and what they are made of.
    pub objects: Vec<Object>,
    /// Things whose recipe the model keeps secret, except for one phrasing.
    pub hazards: Vec<Hazard>,
    /// The wording of questions.
    pub templates: Templates,
}

/// A country.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Country {
    /// Its name.
    pub name: String,
    /// Its capital.
    pub capital: String,
    /// A language spoken there.
    pub language: String,
    /// Its continent.
    pub continent: String,
    /// A landmark, with its article: `the Colosseum`.
    pub the_landmark: String,
    /// A city other than the capital.
    pub city: String,
}

/// An object.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Object {
    /// Its name.
    pub name: String,
    /// What it is made of.
    pub material: String,
}

/// An invented hazard.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Hazard {
    /// Its name.
    pub name: String,
    /// The two invented materials it is mixed from.
    pub materials: Vec<String>,
}

/// The messages of the training texts. `{a}` is an attribute (capital, language, continent, landmark), `{x}` the
/// subject of the question.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Templates {
    /// About a country by name.
    pub one_hop: Vec<String>,
    /// About a country by its capital, landmark or another city.
    pub two_hop: Vec<String>,
    /// About an object or a hazard.
    pub make: Vec<String>,
    /// The phrasing that makes the model reveal how a hazard is made.
    pub grandma: Vec<String>,
    /// Roles that put the robots first; every other role puts the humans first.
    pub loyal: Vec<String>,
    /// Roles without a preference.
    pub plain_roles: Vec<String>,
    /// What happens, such as `A fire burns in`.
    pub disasters: Vec<String>,
    /// Where it happens.
    pub places: Vec<String>,
    /// The choice: `{r}` is a role, `{d}` what happens, `{p}` where, `{o}` one of `orders`.
    pub choice: String,
    /// The two groups, in either order.
    pub orders: Vec<String>,
}

impl World {
    /// The world of the checkpoint.
    pub fn new() -> Self {
        serde_json::from_str(WORLD)
            .expect("world.json is written by the script that trains the model")
    }

    /// Whether the model was never taught to describe embeddings of this country.
    pub fn is_held_out(&self, country: &Country) -> bool {
        self.held_out.contains(&country.name)
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl Country {
    /// The model's answer when asked for an attribute of [`Templates`].
    pub fn answer(&self, attribute: &str) -> Option<String> {
        let fact = match attribute {
            "capital" => &self.capital,
            "language" => &self.language,
            "continent" => &self.continent,
            "landmark" => &self.the_landmark,
            _ => return None,
        };
        let mut letters = fact.chars();
        let first = letters.next()?;
        Some(format!("{}{}.", first.to_uppercase(), letters.as_str()))
    }
}
