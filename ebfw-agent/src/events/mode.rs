//! What becomes of a Deny: the one list of modes, with their names in output and their tags in the kernel.

use ebfw_common::abi;

/// What becomes of a Deny.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// It is carried out.
    Enforce,
    /// It is reported only.
    Log,
    /// As [`Mode::Log`], asked for as a trial of [`Mode::Enforce`].
    DryRun,
    /// Nothing is evaluated.
    Off,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Enforce, Self::Log, Self::DryRun, Self::Off];

    /// As in text, JSON and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.both().0
    }

    /// As in the kernel: one of [`abi::mode`].
    #[must_use]
    pub fn tag(self) -> u32 {
        self.both().1
    }

    /// The mode that the kernel writes so.
    #[must_use]
    pub fn from_tag(tag: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.tag() == tag)
    }

    fn both(self) -> (&'static str, u32) {
        match self {
            Self::Enforce => ("enforce", abi::mode::ENFORCE),
            Self::Log => ("log", abi::mode::LOG),
            Self::DryRun => ("dry-run", abi::mode::DRY_RUN),
            Self::Off => ("off", abi::mode::OFF),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_means_its_mode_and_no_other_tag_means_any() {
        for mode in Mode::ALL {
            assert_eq!(Mode::from_tag(mode.tag()), Some(mode));
        }
        for tag in [4, 255, u32::MAX] {
            assert_eq!(Mode::from_tag(tag), None);
        }
    }
}
