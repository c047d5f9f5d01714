//! Which traces are kept besides those of cold starts, which always are.

use opentelemetry::trace::TraceId;

use super::context::Incoming;

/// Decides by the trace's number and by what the caller has decided, so that all of a trace decide alike.
///
/// Source: opentelemetry-specification `specification/trace/sdk.md`, `ParentBased`, `TraceIdRatioBased`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Whether what the caller decided holds.
    pub follows_caller: bool,
    /// The share of the others, 0 to 1.
    pub ratio: f64,
}

impl Sampler {
    /// What the caller decided holds; of the others this share.
    pub fn parent_based(ratio: f64) -> Self {
        Self {
            follows_caller: true,
            ratio,
        }
    }

    /// In one number, to be read without a lock.
    pub(super) fn packed(self) -> u64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share of 2^63, rounded; a cast from a float saturates"
        )]
        let share = (self.ratio.clamp(0.0, 1.0) * (SHARES as f64)) as u64;
        share.min(SHARES) | if self.follows_caller { FOLLOWS } else { 0 }
    }
}

const FOLLOWS: u64 = 1 << 63;
const SHARES: u64 = FOLLOWS - 1;

/// Decides by a [packed](Sampler::packed) rule.
pub(super) fn is_sampled(packed: u64, incoming: &Incoming, trace: TraceId) -> bool {
    match incoming.is_sampled {
        Some(is_sampled) if packed & FOLLOWS != 0 => is_sampled,
        _ => {
            let share = packed & SHARES;
            share == SHARES || low(trace) < share
        }
    }
}

/// The part of a trace's number that is drawn by chance (W3C Trace Context section 3.2.2.3).
fn low(trace: TraceId) -> u64 {
    let [.., a, b, c, d, e, f, g, h] = trace.to_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decides(sampler: Sampler, caller: Option<bool>, low: u64) -> bool {
        let incoming = Incoming {
            is_sampled: caller,
            ..Incoming::default()
        };
        let trace = TraceId::from_bytes(u128::from(low).to_be_bytes());
        is_sampled(sampler.packed(), &incoming, trace)
    }

    #[test]
    fn the_caller_decides_where_there_is_one() {
        for ratio in [0.0, 1.0] {
            let sampler = Sampler::parent_based(ratio);
            assert!(decides(sampler, Some(true), u64::MAX));
            assert!(!decides(sampler, Some(false), 1));
            assert_eq!(decides(sampler, None, u64::MAX), ratio > 0.5);
        }
        let alone = Sampler {
            follows_caller: false,
            ratio: 0.0,
        };
        assert!(!decides(alone, Some(true), 1));
    }

    #[test]
    fn a_share_of_all_numbers_is_kept() {
        let tenth = Sampler::parent_based(0.1);
        let kept = (0..1_000_u64)
            .filter(|number| decides(tenth, None, number * (u64::MAX / 1_000)))
            .count();
        assert!((99..=101).contains(&kept), "{kept}");
    }
}
