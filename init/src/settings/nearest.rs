//! Which name was meant.

/// The name that a mistyped one is nearest to; `None` where none looks like it.
pub(super) fn nearest(wrong: &str, names: impl IntoIterator<Item = &'static str>) -> Option<&'static str> {
    let wrong = wrong.to_ascii_uppercase();
    let (name, distance) = names.into_iter().map(|name| (name, distance(&wrong, name))).min_by_key(|(_, distance)| *distance)?;
    // What names share by their prefix proves nothing.
    let own = name.trim_start_matches("BEYOND_").trim_start_matches("PG_").len();
    (distance <= (own / 3).clamp(1, 4)).then_some(name)
}

/// How many characters have to be added, removed, replaced or swapped with their neighbour to make one of the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(100).collect(), b.chars().collect());
    let mut rows = [vec![0; b.len() + 1], (0..=b.len()).collect::<Vec<_>>(), vec![0; b.len() + 1]];
    for i in 1..=a.len() {
        rows[2][0] = i;
        for j in 1..=b.len() {
            let replaced = rows[1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[1][j] + 1).min(rows[2][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[0][j - 2] + 1);
            }
            rows[2][j] = best;
        }
        rows.rotate_left(1);
    }
    rows[1][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        for (a, b, edits) in
            [("", "", 0), ("", "ab", 2), ("kitten", "sitting", 3), ("TEIR", "TIER", 1), ("abc", "abc", 0), ("ab", "", 2)]
        {
            assert_eq!(distance(a, b), edits, "{a} {b}");
        }
    }

    #[test]
    fn what_looks_like_nothing_is_not_guessed() {
        let names = ["BEYOND_PG_TIER", "BEYOND_PG_WAL_SINK", "BEYOND_PG_MEMORY_MB"];
        assert_eq!(nearest("BEYOND_PG_TEIR", names), Some("BEYOND_PG_TIER"));
        assert_eq!(nearest("beyond_pg_wal_sync", names), Some("BEYOND_PG_WAL_SINK"));
        assert_eq!(nearest("BEYOND_PG_MEMORY", names), Some("BEYOND_PG_MEMORY_MB"));
        assert_eq!(nearest("BEYOND_PG_SHARED_BUFFERS", names), None);
    }
}
