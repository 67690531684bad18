//! The im2col matrix of an image.

use super::ConvGeometry;

/// Writes the im2col matrix `[channels · kh · kw, oh · ow]` of `image` `[channels, h, w]`; pads are zero.
pub fn im2col(image: &[f32], geometry: &ConvGeometry, out: &mut [f32]) {
    let [height, width] = geometry.input();
    let [kh, kw] = geometry.kernel();
    let [oh, ow] = geometry.output();
    let ([sy, sx], [dy, dx]) = (geometry.stride(), geometry.dilation());
    let [top, left, ..] = geometry.pads();
    for (k, row) in out.chunks_exact_mut(oh * ow).enumerate().take(geometry.k()) {
        let (channel, ky, kx) = (k / (kh * kw), k / kw % kh, k % kw);
        let plane = &image[channel * height * width..][..height * width];
        for (oy, pixels) in row.chunks_exact_mut(ow).enumerate() {
            let y = (oy * sy + ky * dy).wrapping_sub(top);
            for (ox, pixel) in pixels.iter_mut().enumerate() {
                let x = (ox * sx + kx * dx).wrapping_sub(left);
                *pixel = if y < height && x < width { plane[y * width + x] } else { 0.0 };
            }
        }
    }
}
