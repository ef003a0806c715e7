//! Names at the ends of lines, moved apart where they would lie on each other. Pure.

/// Moves `wanted` heights apart so that neighbours are `gap` apart at least and all lie within `low..=high`, as
/// near to where they were wanted as that allows. The order stays.
///
/// Neighbours that touch form a block that lies where its members want it on average; blocks that then touch
/// are one. If there is not room for all, they are spread evenly.
pub(crate) fn spread(wanted: &[f64], gap: f64, low: f64, high: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|&one, &other| wanted[one].total_cmp(&wanted[other]));
    let room = (high - low).max(0.0);
    let gap = if wanted.len() > 1 { gap.min(room / (wanted.len() - 1) as f64) } else { gap };

    struct Block {
        first: f64,
        members: usize,
    }
    let mut blocks: Vec<Block> = Vec::new();
    for &index in &order {
        blocks.push(Block { first: wanted[index], members: 1 });
        loop {
            let last = blocks.last_mut().expect("one was just added");
            let length = (last.members - 1) as f64 * gap;
            last.first = last.first.min(high - length).max(low);
            let [.., before, last] = blocks.as_mut_slice() else { break };
            if before.first + before.members as f64 * gap <= last.first {
                break;
            }
            // The mean of what all members want the first to be.
            let shift = before.members as f64 * gap;
            let (b, l) = (before.members as f64, last.members as f64);
            before.first = (before.first * b + (last.first - shift) * l) / (b + l);
            before.members += last.members;
            blocks.pop();
        }
    }

    let mut spread = vec![0.0; wanted.len()];
    let heights = blocks
        .iter()
        .flat_map(|block| (0..block.members).map(move |member| block.first + member as f64 * gap));
    for (&index, height) in order.iter().zip(heights) {
        spread[index] = height;
    }
    spread
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_apart_stays() {
        assert_eq!(spread(&[50.0, 10.0, 90.0], 10.0, 0.0, 100.0), [50.0, 10.0, 90.0]);
        assert_eq!(spread(&[], 10.0, 0.0, 100.0), [0.0; 0]);
    }

    #[test]
    fn what_is_together_moves_both_ways() {
        assert_eq!(spread(&[50.0, 52.0, 51.0], 10.0, 0.0, 100.0), [41.0, 61.0, 51.0]);
    }

    #[test]
    fn blocks_that_meet_are_one() {
        let heights = spread(&[40.0, 40.0, 46.0, 46.0], 8.0, 0.0, 100.0);
        assert_eq!(heights, [31.0, 39.0, 47.0, 55.0]);
    }

    #[test]
    fn the_borders_hold() {
        assert_eq!(spread(&[99.0, 100.0], 10.0, 0.0, 100.0), [90.0, 100.0]);
        assert_eq!(spread(&[0.0, 0.0], 10.0, 0.0, 100.0), [0.0, 10.0]);
        let crowded = spread(&[1.0; 21], 10.0, 0.0, 100.0);
        assert!(crowded.windows(2).all(|pair| (pair[1] - pair[0] - 5.0).abs() < 1e-6), "{crowded:?}");
        assert!(crowded[0] >= -1e-9 && crowded[20] <= 100.0 + 1e-9, "{crowded:?}");
    }
}
