//! Choosing some cases of many, repeatably.

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

/// Whether all cases are asked for, and not a sample: `HUTCH_TEST_ALL`, which `cargo xtask prove` and `test --all` set.
#[must_use]
pub fn all() -> bool {
    std::env::var_os("HUTCH_TEST_ALL").is_some()
}

/// All `cases` when `HUTCH_TEST_ALL` is set, or else `count` of them, chosen by `HUTCH_TEST_SEED` and printed, in their order.
pub fn sample<T: Clone>(what: &str, cases: &[T], count: usize) -> Vec<T> {
    if all() || cases.len() <= count {
        return cases.to_vec();
    }
    let seed = std::env::var("HUTCH_TEST_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    println!("{what}: {count} of {} cases, chosen with seed {seed}", cases.len());
    let mut random = StdRng::seed_from_u64(seed);
    let indices: Vec<usize> = (0..cases.len()).collect();
    let mut chosen: Vec<usize> = indices.choose_multiple(&mut random, count).copied().collect();
    chosen.sort_unstable();
    chosen.into_iter().map(|index| cases[index].clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::sample;

    #[test]
    fn a_sample_is_repeatable_ordered_and_without_repetition() {
        if super::all() {
            return;
        }
        let cases: Vec<u32> = (0..100).collect();
        let first = sample("numbers", &cases, 10);
        assert_eq!(first.len(), 10);
        assert!(first.is_sorted_by(|one, two| one < two));
        assert_eq!(first, sample("numbers", &cases, 10));
    }

    #[test]
    fn few_cases_are_all_taken() {
        assert_eq!(sample("letters", &['a', 'b'], 5), ['a', 'b']);
    }
}
