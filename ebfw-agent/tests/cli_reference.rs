//! `docs/configuration.md` says what the table of settings says, and its example is what it calls the default.

use std::{env, fs, path::PathBuf};

use ebfw_agent::config::{self, Flags, Key};

const BEGIN: &str = "<!-- settings begin -->\n";
const END: &str = "<!-- settings end -->\n";

fn document() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md")
}

#[test]
fn the_tables_of_the_reference_are_those_of_the_settings() {
    let text = fs::read_to_string(document()).unwrap();
    let (head, rest) = text.split_once(BEGIN).expect("the mark of the beginning");
    let (_, tail) = rest.split_once(END).expect("the mark of the end");
    let expected = format!("{head}{BEGIN}\n{}{END}{tail}", config::reference());
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(document(), &expected).unwrap();
        return;
    }
    assert!(
        text == expected,
        "docs/configuration.md has drifted: UPDATE_DOCS=1 cargo test -p ebfw-agent --test cli_reference"
    );
}

#[test]
fn the_example_of_the_filter_file_is_the_default() {
    let text = fs::read_to_string(document()).unwrap();
    let (_, example) = text.split_once("```yaml\n").unwrap();
    let (example, _) = example.split_once("```\n").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("filter.yaml");
    fs::write(&path, example).unwrap();
    let flags = Flags::from([(Key::Config, path.to_str().unwrap().to_owned())]);
    let loaded = config::load(&flags, &Vec::new()).unwrap().value;
    assert_eq!(loaded.exclude, config::Exclude::default());
}
