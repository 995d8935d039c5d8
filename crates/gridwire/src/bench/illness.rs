//! What ails a webhook after it has agreed to its subscription, and how many have what.

use std::time::Duration;

use clap::Args;

use super::numbers::parse_duration;

/// One way to be sick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Illness {
    /// Takes each delivery, but late.
    Hanging,
    /// Answers 500.
    Failing,
    /// Answers a byte now and then, and never all of it.
    Trickling,
    /// Takes each connection and resets it.
    Resetting,
    /// Sends on to another address, where nobody may come.
    Redirecting,
    /// Proves over TLS to be somebody else, or by the word of an authority that nobody knows.
    Lying,
}

impl Illness {
    pub(crate) const ALL: [Self; 6] =
        [Self::Hanging, Self::Failing, Self::Trickling, Self::Resetting, Self::Redirecting, Self::Lying];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hanging => "hanging",
            Self::Failing => "failing",
            Self::Trickling => "trickling",
            Self::Resetting => "resetting",
            Self::Redirecting => "redirecting",
            Self::Lying => "lying",
        }
    }
}

/// How many endpoints are sick, and of what.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Sick endpoints")]
pub(crate) struct SickArgs {
    /// So many of all kinds, dealt out evenly, in place of the numbers below
    #[arg(
        long,
        value_parser = clap::value_parser!(u32).range(1..=60),
        conflicts_with_all = ["hanging", "failing", "trickling", "resetting", "redirecting", "lying"],
    )]
    pub(crate) sick: Option<u32>,
    /// That answer late
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=10))]
    hanging: u32,
    /// That answer 500
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=10))]
    failing: u32,
    /// That answer a byte a second, and never all of it
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10))]
    trickling: u32,
    /// That reset each connection
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10))]
    resetting: u32,
    /// That redirect to another address
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10))]
    redirecting: u32,
    /// That turn up with a certificate for another name or of an unknown authority; needs a spawned server
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10))]
    lying: u32,
    /// How late hanging ones answer
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    pub(crate) hang: Duration,
}

impl SickArgs {
    /// How many have what.
    pub(crate) fn numbers(&self) -> [(Illness, u32); 6] {
        let counts = match self.sick {
            Some(all) => deal(all),
            None => {
                [self.hanging, self.failing, self.trickling, self.resetting, self.redirecting, self.lying]
            }
        };
        std::array::from_fn(|index| (Illness::ALL[index], counts[index]))
    }

    pub(crate) fn total(&self) -> u32 {
        self.numbers().iter().map(|(_, count)| count).sum()
    }
}

/// Evenly, the first kinds one more where it does not come out even.
fn deal(all: u32) -> [u32; 6] {
    let kinds = 6;
    std::array::from_fn(|index| {
        all / kinds + u32::from(u32::try_from(index).is_ok_and(|index| index < all % kinds))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        sick: SickArgs,
    }

    fn counts(line: &str) -> Option<[u32; 6]> {
        let words = ["cli"].into_iter().chain(line.split_whitespace());
        let sick = Cli::try_parse_from(words).ok()?.sick;
        let numbers = sick.numbers();
        assert_eq!(sick.total(), numbers.iter().map(|(_, count)| count).sum::<u32>(), "{line}");
        assert_eq!(numbers.map(|(illness, _)| illness), Illness::ALL, "{line}");
        Some(numbers.map(|(_, count)| count))
    }

    #[test]
    fn the_sick_are_dealt_out_evenly_or_as_told() {
        for (line, expected) in [
            ("", Some([1, 1, 0, 0, 0, 0])),
            ("--sick 10", Some([2, 2, 2, 2, 1, 1])),
            ("--sick 6", Some([1; 6])),
            ("--sick 1", Some([1, 0, 0, 0, 0, 0])),
            ("--hanging 0 --lying 3", Some([0, 1, 0, 0, 0, 3])),
            ("--sick 10 --lying 3", None),
            ("--sick 0", None),
            ("--hanging 11", None),
        ] {
            assert_eq!(counts(line), expected, "{line}");
        }
    }
}
