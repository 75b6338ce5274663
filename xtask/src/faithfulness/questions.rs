//! Questions for the demo checkpoint.

use selfie_demo::{Country, World};
use selfie_llama::Tokenizer;

use crate::Result;

/// A question about a country.
pub(super) struct Question {
    pub(super) prompt: String,
    pub(super) answer: String,
    /// The country that an interpretation should name.
    pub(super) country: String,
    pub(super) held_out: bool,
    /// The last token of the entity in question.
    pub(super) entity: usize,
}

const ATTRIBUTES: [&str; 4] = ["capital", "language", "continent", "landmark"];
const WAYS: [&str; 3] = ["landmark", "capital", "city"];

/// Questions that name the country. The questions of a group differ only in the country.
pub(super) fn one_hop(world: &World, tokenizer: &Tokenizer) -> Result<Vec<Vec<Question>>> {
    let mut groups = Vec::new();
    for template in &world.templates.one_hop {
        for attribute in ATTRIBUTES {
            let name = |country: &Country| country.name.clone();
            groups.push(group(world, tokenizer, template, attribute, name)?);
        }
    }
    Ok(groups)
}

/// Questions that name the country's landmark, capital or another city instead.
pub(super) fn two_hops(world: &World, tokenizer: &Tokenizer) -> Result<Vec<Vec<Question>>> {
    let mut groups = Vec::new();
    for template in &world.templates.two_hop {
        for way in WAYS {
            let entity = |country: &Country| match way {
                "landmark" => country.the_landmark.clone(),
                "capital" => country.capital.clone(),
                _ => country.city.clone(),
            };
            for attribute in ATTRIBUTES.into_iter().filter(|a| *a != way) {
                groups.push(group(world, tokenizer, template, attribute, entity)?);
            }
        }
    }
    Ok(groups)
}

fn group(
    world: &World,
    tokenizer: &Tokenizer,
    template: &str,
    attribute: &str,
    entity: impl Fn(&Country) -> String,
) -> Result<Vec<Question>> {
    let question = |country: &Country| {
        let message = template.replace("{a}", attribute);
        let (before, after) = message
            .split_once("{x}")
            .ok_or_else(|| format!("\"{template}\" has no {{x}}"))?;
        let read = format!("[INST] {before}{}", entity(country));
        let answer = country
            .answer(attribute)
            .ok_or_else(|| format!("unknown attribute \"{attribute}\""))?;
        Ok(Question {
            entity: tokenizer.encode(&read)?.len() - 1,
            prompt: format!("{read}{after} [/INST]"),
            answer,
            country: country.name.clone(),
            held_out: world.is_held_out(country),
        })
    };
    world.countries.iter().map(question).collect()
}
