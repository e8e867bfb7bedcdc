//! The Helm chart: what its values may be. The schema is written from the types, so that Helm refuses a misspelled value.

mod alerts;
mod values;

use anyhow::{Context as _, Result};
use schemars::generate::SchemaSettings;

use self::values::Values;

pub(crate) use self::alerts::check as check_alerts;

/// Where Helm looks for the schema.
pub(crate) const SCHEMA: &str = "helm/ebfw/values.schema.json";

/// The JSON Schema of values.yaml. Draft 7, which every Helm 3 and 4 reads.
pub(crate) fn schema() -> Result<String> {
    let generator = SchemaSettings::draft07().into_generator();
    let mut schema = generator.into_root_schema_for::<Values>();
    schema.insert("title".to_owned(), "values of the ebfw chart".into());
    let text = serde_json::to_string_pretty(&schema).context("a schema is JSON")?;
    Ok(format!("{text}\n"))
}

#[cfg(test)]
mod golden;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    #[test]
    fn the_defaults_fit_the_types_and_name_every_value() {
        let path = workspace::root().join("helm/ebfw/values.yaml");
        let text = std::fs::read_to_string(path).unwrap();
        let values: Values = serde_saphyr::from_str(&text).unwrap();
        let written: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(serde_json::to_value(values).unwrap(), written);
    }

    #[test]
    fn a_value_that_does_not_exist_is_refused() {
        let path = workspace::root().join("helm/ebfw/values.yaml");
        let text = std::fs::read_to_string(path).unwrap();
        for (values, why) in [
            (format!("{text}\nmodes: log\n"), "a misspelled name"),
            (
                text.replace("mode: log", "mode: audit"),
                "a mode that is none",
            ),
            (text.replace("  port: 9487", "  port: 0"), "no port"),
        ] {
            let read = serde_saphyr::from_str::<Values>(&values);
            assert!(read.is_err(), "{why}");
        }
    }
}
