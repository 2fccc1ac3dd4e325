//! What is simulated: the guests' load, and on what.

use std::fmt;
use std::sync::Arc;

use clap::ValueEnum;
use serde::Serialize;

use crate::model::Model;
use crate::recorded::Recording;

/// On/off: how long guests are on, unless the scenario says otherwise, in seconds.
pub const ON_S: f64 = 10.0;
/// On/off: how much longer guests are off than on.
pub(crate) const OFF: f64 = 3.0;
/// On/off: a scenario lasts for so many times as long as guests are on.
const LEAST_BURSTS: f64 = 15.0;

/// How load comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// Each guest sends the same in every tick; guests differ up to ninefold.
    Constant,
    /// The same on average, by a Poisson process.
    Poisson,
    /// Guests send four times their mean for some seconds, then nothing for three times as long, each by itself: 10 s and 30 s, or as the scenario
    /// says, on average.
    OnOff,
    /// By a Poisson process; a few guests send most: the k-th in proportion to 1/k.
    Zipf,
    /// By a Poisson process; for 3 minutes in every 4, beginning with the second, another eighth of the guests sends five times as much.
    FlashCrowd,
    /// By a Poisson process; guests come and go, each by itself: they stay for 4 minutes on average, and are away for 80 s.
    Churn,
    /// One guest sends more than a core can do: no policy can serve it.
    Elephant,
    /// From a file.
    Recorded,
}

impl Shape {
    /// Whether the load is the same all the time, but for noise.
    #[must_use]
    pub fn is_steady(self) -> bool {
        matches!(self, Self::Constant | Self::Poisson | Self::Zipf)
    }
}

/// Who sends to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Talk {
    /// Everybody to an uplink of the own core: nothing crosses.
    Uplink,
    /// Guests in pairs, drawn at random.
    Pairs,
    /// Everybody to one other, drawn at random.
    Random,
}

/// A load on a number of cores.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scenario {
    /// How load comes.
    pub shape: Shape,
    /// Who sends to whom.
    pub talk: Talk,
    /// I/O cores.
    pub cores: usize,
    /// Guests, of one queue pair each.
    pub guests: usize,
    /// Simulated time, in seconds.
    pub seconds: f64,
    /// Seconds at the beginning that do not count as converged.
    pub converged_s: f64,
    /// What guests send on average, in parts of what all cores can serve, crossings aside.
    pub load: f64,
    /// The most that one guest sends, in parts of a core: the rest is spread over the others.
    pub largest: f64,
    /// On/off: for how many seconds guests are on, on average.
    pub on_s: f64,
    /// Cores that stay awake, if cores may be parked.
    pub elastic_min: Option<usize>,
    /// The recording, for that shape.
    #[serde(skip)]
    pub recording: Option<Arc<Recording>>,
}

impl Scenario {
    /// 10 minutes, of which 3 are for converging. At 85 %, where guests that were placed in turn saturate some core; less for the
    /// shapes that rise above their mean, so that all cores together can nearly always serve all there is.
    #[must_use]
    pub fn new(shape: Shape, cores: usize, guests: usize) -> Self {
        let load = match shape {
            Shape::OnOff => 0.6,
            Shape::FlashCrowd => 0.5,
            Shape::Churn => 0.75,
            _ => 0.85,
        };
        Self {
            shape,
            talk: Talk::Uplink,
            cores,
            guests,
            seconds: 600.0,
            converged_s: 180.0,
            load,
            largest: 0.8,
            on_s: ON_S,
            elastic_min: None,
            recording: None,
        }
    }

    /// On/off with guests that are on for so long on average: where that is longer than usual, the scenario is so much longer that each of them is on a
    /// few times, the part for converging too.
    #[must_use]
    pub fn on_off(on_s: f64, cores: usize, guests: usize) -> Self {
        let usual = Self::new(Shape::OnOff, cores, guests);
        let longer = (on_s * LEAST_BURSTS / usual.seconds).max(1.0);
        Self { on_s, seconds: usual.seconds * longer, converged_s: usual.converged_s * longer, ..usual }
    }

    /// A recording, for as long as it goes and with the load that it has; as large a part of it is for converging as of the others.
    #[must_use]
    pub fn recorded(recording: Recording, cores: usize, model: &Model) -> Self {
        let usual = Self::new(Shape::Recorded, cores, recording.guests());
        let seconds = recording.ticks() as f64 * model.tick_ms / 1000.0;
        let load = recording.packets() / recording.ticks() as f64 / model.packets_a_tick() / cores as f64;
        let converged_s = seconds * usual.converged_s / usual.seconds;
        Self { seconds, converged_s, load, recording: Some(Arc::new(recording)), ..usual }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Constant => "constant",
            Self::Poisson => "poisson",
            Self::OnOff => "on-off",
            Self::Zipf => "zipf",
            Self::FlashCrowd => "flash-crowd",
            Self::Churn => "churn",
            Self::Elephant => "elephant",
            Self::Recorded => "recorded",
        })
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let talk = match self.talk {
            Talk::Uplink => "",
            Talk::Pairs => ", in pairs",
            Talk::Random => ", at random",
        };
        write!(f, "{}", self.shape)?;
        if self.shape == Shape::OnOff {
            write!(f, ", {} s", self.on_s)?;
        }
        write!(f, "{talk}, {} × {}", self.cores, self.guests)
    }
}
