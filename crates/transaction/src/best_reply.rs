//! Which of several negative replies goes upstream: RFC 3261 §16.7 step 6 with the habits of OpenSIPS' `tm`.
//! A pure order on status codes; knows no branches.

/// A place in the order of negative replies; the lowest goes upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReplyRank(u16);

/// Ranks a final, non-2xx status code; lower is better.
///
/// The RFC asks for a 6xx first, then the lowest class, and inside 4xx for the codes that tell the client how to
/// repeat the request. In order: 487 when the client cancelled (it is waiting for just that), 6xx, 3xx, 401, 407, 415,
/// 420, 484, the other 4xx, 5xx, 408 (it often says no more than that a phone was switched off), 503 (it speaks of one
/// next hop, not of us). OpenSIPS: tm, reply selection.
pub fn rank_reply(code: u16, was_cancelled: bool) -> ReplyRank {
    let class = match code {
        487 if was_cancelled => 0,
        600..=699 => 1,
        300..=399 => 2,
        401 | 407 | 415 | 420 | 484 => 3,
        408 => 6,
        400..=499 => 4,
        503 => 7,
        500..=599 => 5,
        _ => 8,
    };
    ReplyRank(class * 1000 + code.min(999))
}
