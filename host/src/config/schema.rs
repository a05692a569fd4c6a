//! The JSON schema of the config file, for editors. Made from the types and the ranges; nothing in it is written twice.

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::bounds::BOUNDS;
use super::raw::Raw;

/// JSON schema, draft 7, of `groundskeeper.toml`. Ranges of times and sizes stand in the descriptions.
pub fn schema() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<Raw>().to_value();
    for (key, bound) in BOUNDS {
        let place = key.split('.').try_fold(&mut schema, |at, name| at.get_mut("properties")?.get_mut(name));
        let place = place.expect("a test checks that every bound is about a key");
        if let Some((least, most)) = bound.as_counts() {
            place["minimum"] = json!(least);
            place["maximum"] = json!(most);
        }
        let description = place["description"].as_str().map(|text| format!("{text} ")).unwrap_or_default();
        place["description"] = json!(format!("{description}{bound}."));
    }
    schema
}
