//! Every setting of the configuration as a flag, made from the table of settings.
//!
//! Values are taken as text: the configuration checks them all and reports all that is wrong.

use clap::{
    Arg, ArgMatches, Command,
    builder::{PossibleValue, StringValueParser, TypedValueParser},
    error::Error,
};

use crate::config::{Flags, Key, SETTINGS, Setting, Values};

/// Flags of `ebfw run`: every setting.
#[derive(Clone, Debug)]
pub(super) struct RunFlags(pub(super) Flags);

/// Flags of `ebfw detach`, `ebfw names` and `ebfw status`: where the pins are.
#[derive(Clone, Debug)]
pub(super) struct DetachFlags(pub(super) Flags);

/// Flags of `ebfw exec` that it shares with the agent.
#[derive(Clone, Debug)]
pub(super) struct LogFlag(pub(super) Flags);

macro_rules! arguments_from_table {
    ($name:ident, $keeps:expr) => {
        impl clap::Args for $name {
            fn augment_args(command: Command) -> Command {
                augment(command, $keeps)
            }

            fn augment_args_for_update(command: Command) -> Command {
                Self::augment_args(command)
            }
        }

        impl clap::FromArgMatches for $name {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
                Ok(Self(collect(matches, $keeps)))
            }

            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
                self.0.extend(collect(matches, $keeps));
                Ok(())
            }
        }
    };
}
arguments_from_table!(RunFlags, |_| true);
arguments_from_table!(DetachFlags, |key| matches!(key, Key::PinDir | Key::Log));
arguments_from_table!(LogFlag, |key| key == Key::Log);

fn augment(command: Command, keeps: fn(Key) -> bool) -> Command {
    let rows = SETTINGS.iter().filter(|row| keeps(row.key));
    rows.fold(command, |command, row| command.arg(argument(row)))
}

fn collect(matches: &ArgMatches, keeps: fn(Key) -> bool) -> Flags {
    let rows = SETTINGS.iter().filter(|row| keeps(row.key));
    rows.filter_map(|row| Some((row.key, matches.get_one::<String>(row.flag)?.clone())))
        .collect()
}

fn argument(row: &'static Setting) -> Arg {
    let Setting {
        variable, default, ..
    } = row;
    let help = format!("{} [env: {variable}] [default: {default}]", row.help);
    let arg = Arg::new(row.flag)
        .long(row.flag)
        .help(help)
        .help_heading(row.group.heading());
    match row.values {
        Values::Boolean => arg
            .value_name("BOOL")
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .hide_possible_values(true)
            .value_parser(Suggested(|| {
                ["true", "false"].map(PossibleValue::new).to_vec()
            })),
        Values::Words(words) => arg.value_name("WORD").value_parser(Suggested(words)),
        Values::Text { name, .. } => arg.value_name(name).value_hint(hint(row)),
    }
}

fn hint(row: &Setting) -> clap::ValueHint {
    match row.key {
        Key::Config | Key::Policy => clap::ValueHint::FilePath,
        Key::Cgroup | Key::PinDir => clap::ValueHint::DirPath,
        _ => clap::ValueHint::Other,
    }
}

/// Takes any text, and tells help and completions which words there are.
#[derive(Clone, Copy)]
struct Suggested(fn() -> Vec<PossibleValue>);

impl TypedValueParser for Suggested {
    type Value = String;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<String, Error> {
        StringValueParser::new().parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new((self.0)().into_iter()))
    }
}
