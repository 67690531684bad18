//! Non-maximum suppression: of boxes that overlap much, only the one with the highest score stays.

use poda_formats::DataType;

use super::args::{Infos, optional, required};
use super::facts::{Fact, bad_shape, same_type, shape};
use super::real::load;
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;
use crate::threads;

fn infos<'a, F: Fact<'a>>(inputs: &[Option<F>]) -> Result<Vec<Info>, OpError> {
    required(inputs, 0)?;
    same_type(inputs, [0, 1, 3, 4], DataType::F32)?;
    same_type(inputs, [2], DataType::I64)?;
    if let (Some(boxes), Some(scores)) = (shape(inputs, 0)?, shape(inputs, 1)?) {
        let (&[batch, count, 4], &[score_batch, _, score_count]) = (boxes, scores) else {
            return Err(bad_shape(
                0,
                boxes,
                format!("expected [batch, boxes, 4], and 3 axes of scores, {scores:?}"),
            ));
        };
        if [batch, count] != [score_batch, score_count] {
            return Err(bad_shape(1, scores, format!("it does not fit boxes {boxes:?}")));
        }
    }
    Ok(vec![Info::dynamic(DataType::I64)])
}

pub(super) fn infer_non_max_suppression(
    _center_point_box: bool,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    infos(inputs)
}

/// Low corner, high corner and area.
#[derive(Debug, Clone, Copy)]
struct Rectangle {
    low: [f32; 2],
    high: [f32; 2],
    area: f32,
}

impl Rectangle {
    fn new(numbers: &[f32], center: bool) -> Self {
        let [a, b, c, d] = [numbers[0], numbers[1], numbers[2], numbers[3]];
        let corners = if center {
            // x, y, width, height
            [[b - d / 2.0, a - c / 2.0], [b + d / 2.0, a + c / 2.0]]
        } else {
            // Any two opposite corners, y before x.
            [[a, b], [c, d]]
        };
        let low = [corners[0][0].min(corners[1][0]), corners[0][1].min(corners[1][1])];
        let high = [corners[0][0].max(corners[1][0]), corners[0][1].max(corners[1][1])];
        Self { low, high, area: (high[0] - low[0]) * (high[1] - low[1]) }
    }

    /// Rectangle of the intersection over area of the union.
    fn overlap(&self, other: &Self) -> f32 {
        let side = |i: usize| (self.high[i].min(other.high[i]) - self.low[i].max(other.low[i])).max(0.0);
        let common = side(0) * side(1);
        let union = self.area + other.area - common;
        if union > 0.0 { common / union } else { 0.0 }
    }
}

pub(super) fn non_max_suppression(
    center_point_box: bool,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    infos(inputs)?;
    let (boxes, scores) = (required(inputs, 0)?, required(inputs, 1)?);
    let &[batch, classes, count] = scores.shape() else { return Err(bad_shape(1, scores.shape(), "3 axes")) };
    let number = |index: usize| optional(inputs, index).and_then(|view| load::<f64>(view).first().copied());
    // Without a number the operator selects nothing.
    let most = number(2).map_or(0, |v| v.max(0.0) as usize);
    let (threshold, lowest) = (number(3).unwrap_or(0.0) as f32, number(4).map(|v| v as f32));
    let areas: Vec<Rectangle> =
        boxes.as_slice::<f32>()?.chunks_exact(4).map(|b| Rectangle::new(b, center_point_box)).collect();
    let scores = scores.as_slice::<f32>()?;
    let select = |i: usize| {
        let (image, class) = (i / classes, i % classes);
        let scores = &scores[i * count..][..count];
        let areas = &areas[image * count..][..count];
        let mut order: Vec<usize> = (0..count).filter(|&b| lowest.is_none_or(|l| scores[b] > l)).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let mut kept: Vec<usize> = Vec::new();
        for candidate in order {
            if kept.len() == most {
                break;
            }
            if kept.iter().all(|&other| areas[candidate].overlap(&areas[other]) <= threshold) {
                kept.push(candidate);
            }
        }
        kept.into_iter().flat_map(|b| [image as i64, class as i64, b as i64]).collect::<Vec<_>>()
    };
    let mut selected: Vec<Vec<i64>> = vec![Vec::new(); batch * classes];
    threads::for_each_chunk(&mut selected, 1, 1, |i, selected| selected[0] = select(i));
    let selected = selected.concat();
    if outputs[0].is_used() {
        outputs[0].alloc(&[selected.len() / 3, 3])?.copy_from_slice(&selected);
    }
    Ok(())
}
