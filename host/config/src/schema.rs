//! The JSON schemas of the config file and of manifests, for editors. Generated from the types and the ranges.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use groundskeeper_base::bounds::Bound;

use super::Config;
use super::bounds;
use super::manifest;

/// JSON schema, draft 7, of `groundskeeper.toml`. Descriptions include the ranges, also those of times and sizes.
pub fn schema() -> Value {
    described::<Config>(&bounds::all())
}

/// JSON schema, draft 7, of a phase's manifest.
pub fn manifest_schema() -> Value {
    let mut schema = described::<manifest::WrittenManifest>(&manifest::BOUNDS);
    schema["required"] = json!(["name", "kind"]);
    // In a manifest `false` means "not granted", because TOML has no null.
    let grants = &mut schema["properties"]["grants"];
    let usual = grants["default"].as_object_mut().into_iter().flat_map(|usual| usual.values_mut());
    usual.filter(|value| value.is_null()).for_each(|value| *value = json!(false));
    let each = grants["properties"].as_object_mut().into_iter().flat_map(|each| each.values_mut());
    each.filter(|grant| grant["default"].is_null()).for_each(|grant| grant["default"] = json!(false));
    schema
}

fn described<T: JsonSchema>(bounds: &[(impl AsRef<str>, Bound)]) -> Value {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    for (key, bound) in bounds {
        let place = key.as_ref().split('.').try_fold(&mut schema, property);
        let place = place.expect("a test checks that every bound is about a key");
        if let Bound::Count(least, most) = bound {
            place["minimum"] = json!(least);
            place["maximum"] = json!(most);
        }
        let description = place["description"].as_str().map(|text| format!("{text} ")).unwrap_or_default();
        place["description"] = json!(format!("{description}{bound}."));
    }
    schema
}

/// A property of a table, or of the table that may be written instead of true or false.
fn property<'a>(of: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    let table = if of.get("anyOf").is_none() { of } else { of.get_mut("anyOf")?.get_mut(1)? };
    if table["properties"].get(name).is_none() {
        // A table in which the author of the file chooses the keys.
        return table.get_mut("additionalProperties").filter(|rest| rest.is_object());
    }
    table.get_mut("properties")?.get_mut(name)
}
