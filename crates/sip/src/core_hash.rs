//! The string hash that nodes of one cluster agree on. It is no protection against chosen keys.

/// The string hash OpenSIPS nodes agree on (contact ids, ping partitioning, dialog slots): 32-bit wrapping arithmetic
/// over sign-extended bytes.
pub fn core_hash(text: &[u8]) -> u32 {
    // Bytes from 0x80 on are sign-extended: peers are built with signed `char`.
    let extend = |byte: u8| i32::from(byte as i8) as u32;
    let fold = |value: u32| value ^ (value >> 3);
    let (groups, rest) = text.as_chunks::<4>();
    let mut hash = groups.iter().fold(0u32, |hash, &[b0, b1, b2, b3]| {
        let value =
            (extend(b0) << 24).wrapping_add(extend(b1) << 16).wrapping_add(extend(b2) << 8).wrapping_add(extend(b3));
        hash.wrapping_add(fold(value))
    });
    let tail = rest.iter().fold(0u32, |value, byte| (value << 8).wrapping_add(extend(*byte)));
    hash = hash.wrapping_add(fold(tail));
    hash.wrapping_add(hash >> 11).wrapping_add(hash >> 13).wrapping_add(hash >> 23)
}
