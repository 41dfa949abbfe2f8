//! The nearest valid name for a misspelt one. It knows no names itself.

/// Names longer than this are not compared (nobody types them by hand).
const NAME_MAX: usize = 64;

/// The candidate that is closest to `name`, if one is close enough to be what was meant.
/// Letter case counts as a small difference; the first of several equally near ones wins.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut best: Option<(usize, &str)> = None;
    let limit = limit_of(name);
    for candidate in candidates {
        if candidate == name {
            continue;
        }
        let bound = best.map_or(limit + 1, |(distance, _)| distance);
        if let Some(distance) = distance_below(name.as_bytes(), candidate.as_bytes(), bound) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Differences allowed, in half edits: a third of the length, at least one edit.
fn limit_of(name: &str) -> usize {
    (name.len() * 2 / 3).clamp(2, 8)
}

/// Distance of two names in half edits (a change of case is 1, any other insertion, deletion, replacement or swap
/// of neighbours is 2), if it is below `bound`.
fn distance_below(a: &[u8], b: &[u8], bound: usize) -> Option<usize> {
    if a.len() > NAME_MAX || b.len() > NAME_MAX || a.len().abs_diff(b.len()) * 2 >= bound {
        return None;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).map(|i| i * 2).collect();
    for (i, &x) in a.iter().enumerate() {
        let mut row = Vec::with_capacity(b.len() + 1);
        row.push((i + 1) * 2);
        for (j, &y) in b.iter().enumerate() {
            let replace = if x == y { 0 } else { 1 + usize::from(!x.eq_ignore_ascii_case(&y)) };
            let at = |row: &[usize], index: usize| row.get(index).copied().unwrap_or(usize::MAX / 2);
            let mut cost = (at(&last, j) + replace).min(at(&last, j + 1) + 2).min(at(&row, j) + 2);
            let is_swap = i > 0 && j > 0 && a.get(i - 1) == Some(&y) && b.get(j - 1) == Some(&x);
            if is_swap {
                cost = cost.min(at(&before, j - 1) + 2);
            }
            row.push(cost);
        }
        if row.iter().min().is_none_or(|least| *least >= bound) {
            return None;
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().filter(|distance| *distance < bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_finds_the_name_meant() {
        let names = ["t_relay", "t_reply", "record_route", "is_method", "xlog"];
        assert_eq!(nearest("t_realy", names), Some("t_relay"));
        assert_eq!(nearest("recordroute", names), Some("record_route"));
        assert_eq!(nearest("Is_Method", names), Some("is_method"));
        assert_eq!(nearest("xlgo", names), Some("xlog"));
    }

    #[test]
    fn a_foreign_name_finds_nothing() {
        assert_eq!(nearest("presence_handle", ["t_relay", "xlog"]), None);
        assert_eq!(nearest("q", ["xlog", "exit"]), None);
        assert_eq!(nearest(&"x".repeat(1000), ["xlog"]), None);
    }
}
