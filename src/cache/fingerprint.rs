use std::fmt;

use rand::TryRng;
use rand::rngs::SysRng;
use sha2::block_api::compress256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// By what a text is told from all others in this process, and nowhere else.
///
/// It cannot be computed without the secret of the [`Fingerprints`] that made it, and leads back to
/// the text no more than a digest does. Two are compared in constant time and `Debug` does not
/// print them.
#[derive(Clone, Copy)]
pub(crate) struct Fingerprint([u64; 2]);

/// The function that makes fingerprints: the compression of SHA-256, which begins with a random
/// state in the place of the standard's.
///
/// A key of the usual length is one block, so this costs half of what SHA-256 does, and there is
/// hardware for it. As the inner function of NMAC it is pseudorandom for whoever does not know the
/// state (Bellare, Canetti, Krawczyk 1996), as long as no input is the beginning of another: each
/// block tells the whole text's length. Whoever does know it, from a memory dump, still has to try
/// about 2¹²⁸ texts to find one of the same fingerprint, as with any 128 bits of SHA-256. That is
/// why it is no `SipHash`, which cannot promise this and costs as much.
pub(super) struct Fingerprints {
    secret: Zeroizing<[u32; 8]>,
}

impl Fingerprints {
    /// How much of a text goes into one block, beside two bytes for its length.
    const PART: usize = 62;

    /// With a secret of its own.
    ///
    /// # Panics
    ///
    /// When the operating system has no randomness to give.
    pub(super) fn new() -> Self {
        let mut random = Zeroizing::new([0; 32]);
        SysRng
            .try_fill_bytes(random.as_mut_slice())
            .expect("the operating system provides randomness");
        let (words, _) = random.as_chunks();
        let secret = std::array::from_fn(|word| u32::from_be_bytes(words[word]));
        Self {
            secret: Zeroizing::new(secret),
        }
    }

    /// The fingerprint of `text`, which has at most [`MAX_KEY_LEN`](crate::key::MAX_KEY_LEN) bytes.
    #[inline]
    pub(super) fn of(&self, text: &[u8]) -> Fingerprint {
        let [low, high, ..] = text.len().to_le_bytes();
        let mut state = *self.secret;
        for part in text.chunks(Self::PART) {
            let mut block = [0; 64];
            block[..part.len()].copy_from_slice(part);
            block[Self::PART..].copy_from_slice(&[low, high]);
            compress256(&mut state, &[block]);
        }
        let word = |high: usize| u64::from(state[high]) << 32 | u64::from(state[high + 1]);
        Fingerprint([word(0), word(2)])
    }
}

impl Fingerprint {
    /// Where it belongs in a table.
    pub(super) fn place(&self) -> u64 {
        self.0[0]
    }
}

impl PartialEq for Fingerprint {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        let difference = (self.0[0] ^ other.0[0]) | (self.0[1] ^ other.0[1]);
        difference.ct_eq(&0).into()
    }
}

impl Eq for Fingerprint {}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{KeyFormat, MAX_KEY_LEN};

    #[test]
    fn every_changed_bit_makes_another_fingerprint() {
        let fingerprints = Fingerprints::new();
        let key = KeyFormat::new("sk").generate("sk", "live").unwrap();
        let long = "x".repeat(MAX_KEY_LEN);
        for text in [key.expose(), &long] {
            let original = fingerprints.of(text.as_bytes());
            assert_eq!(original, fingerprints.of(text.as_bytes()));
            for bit in 0..text.len() * 8 {
                let mut changed = text.as_bytes().to_vec();
                changed[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(original, fingerprints.of(&changed), "bit {bit}");
            }
        }
    }

    #[test]
    fn texts_of_all_lengths_differ() {
        let fingerprints = Fingerprints::new();
        // Of zeros only, which are also what a block is filled up with.
        let zeros = [0; MAX_KEY_LEN];
        let all: Vec<_> = (0..=MAX_KEY_LEN)
            .map(|length| fingerprints.of(&zeros[..length]))
            .collect();
        for (index, fingerprint) in all.iter().enumerate() {
            assert!(!all[..index].contains(fingerprint), "{index} zeros");
        }
    }

    #[test]
    fn each_process_has_fingerprints_of_its_own() {
        let [ours, theirs] = [(); 2].map(|()| Fingerprints::new().of(b"text"));
        assert_ne!(ours, theirs);
        assert_ne!(ours.place(), theirs.place());
    }

    #[test]
    fn both_halves_are_compared() {
        let fingerprint = Fingerprint([1, 2]);
        assert_eq!(fingerprint, Fingerprint([1, 2]));
        assert_ne!(fingerprint, Fingerprint([1, 3]));
        assert_ne!(fingerprint, Fingerprint([3, 2]));
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Fingerprint([1, 2])), "Fingerprint(…)");
    }
}
