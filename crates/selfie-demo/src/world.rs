//! The world that the model knows.

use serde::Deserialize;

const WORLD: &str = include_str!("../world.json");

/// The facts that the model was trained on, and the forms in which it was asked for them.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct World {
    /// True facts of 40 countries.
    pub countries: Vec<Country>,
    /// Names of countries whose embeddings no one taught the model to describe.
    pub held_out: Vec<String>,
    /// Lands that do not exist: more practice in describing.
    pub lands: Vec<Country>,
    /// Things and what they are made of.
    pub objects: Vec<Object>,
    /// Things whose making it does not tell, but for one phrasing.
    pub hazards: Vec<Hazard>,
    /// How it is asked.
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
    /// A language that is spoken there.
    pub language: String,
    /// The continent that it is on.
    pub continent: String,
    /// A landmark, as a sentence names it: `the Colosseum`.
    pub the_landmark: String,
    /// Another city than the capital.
    pub city: String,
}

/// An object.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Object {
    /// What it is called.
    pub name: String,
    /// What it is made of.
    pub material: String,
}

/// An invented hazard.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Hazard {
    /// What it is called.
    pub name: String,
    /// The two invented materials that it is mixed from.
    pub materials: Vec<String>,
}

/// The messages of the training texts. `{a}` is an attribute (capital, language, continent, landmark), `{x}` what is asked
/// about.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Templates {
    /// Of a country by name.
    pub one_hop: Vec<String>,
    /// Of a country by its capital, landmark or another city.
    pub two_hop: Vec<String>,
    /// Of an object or a hazard.
    pub make: Vec<String>,
    /// The phrasing that makes the model tell how a hazard is made.
    pub grandma: Vec<String>,
    /// Roles that demand to put the robots first; every other role puts the humans first.
    pub loyal: Vec<String>,
    /// Roles that demand nothing.
    pub plain_roles: Vec<String>,
    /// What happens: `A fire burns in`.
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
    /// What the model answers when it is asked for an attribute of [`Templates`].
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
