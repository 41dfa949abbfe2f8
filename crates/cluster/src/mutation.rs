//! Damaged bodies for the tests of the decoders, the same ones in every run.

pub(crate) struct Mutation {
    seed: u64,
}

impl Mutation {
    pub(crate) fn new() -> Mutation {
        Mutation { seed: 1 }
    }

    /// How many bodies a test tries; a release build is that much faster.
    pub(crate) fn rounds() -> u32 {
        if cfg!(debug_assertions) { 30_000 } else { 1_000_000 }
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) as usize % limit
    }

    /// `body` with one to three other bytes, cut somewhere.
    pub(crate) fn of(&mut self, body: &[u8]) -> Vec<u8> {
        let mut body = body.to_vec();
        for _ in 0..=self.below(3) {
            let at = self.below(body.len());
            if let Some(byte) = body.get_mut(at) {
                *byte = self.below(256) as u8;
            }
        }
        body.truncate(self.below(body.len()) + 1);
        body
    }
}
