//! Tensors of every type and in every place.

use half::{bf16, f16};

use super::*;
use crate::dtype::{Boolean, DataType, Element};
use crate::onnx::proto::{Segment, data_type_code};
use crate::tensor::Tensor;

fn weight(tensor: TensorProto) -> Result<Tensor, OnnxError> {
    let mut proto = graph(&["x"], None, vec![node("Relu", &["x"], &["y"], vec![])], &["y"]);
    proto.initializer = vec![TensorProto { name: "w".into(), ..tensor }];
    let graph = read(&model(13, proto))?;
    let Some(Weight::Tensor(tensor)) = graph.weight(graph.find("w").unwrap()) else { panic!() };
    Ok(tensor.clone())
}

fn typed(dtype: DataType, set: impl FnOnce(&mut TensorProto)) -> TensorProto {
    let mut proto = TensorProto { dims: vec![2], data_type: data_type_code(dtype), ..TensorProto::default() };
    set(&mut proto);
    proto
}

/// Typed and raw data of the same two elements give the same tensor.
fn check<T: Element>(values: [T; 2], set: impl FnOnce(&mut TensorProto)) {
    let raw = Bytes::copy_from_slice(bytemuck::cast_slice(&values));
    let raw = weight(typed(T::DTYPE, |t| t.raw_data = Some(raw))).unwrap();
    let typed = weight(typed(T::DTYPE, set)).unwrap();
    assert_eq!(typed.as_slice::<T>().unwrap(), values);
    assert_eq!(typed, raw);
}

#[test]
fn every_type_raw_and_typed() {
    check([1.5_f32, -2.0], |t| t.float_data = vec![1.5, -2.0]);
    check([1.5_f64, -2.0], |t| t.double_data = vec![1.5, -2.0]);
    check([1_i32, -2], |t| t.int32_data = vec![1, -2]);
    check([1_i64, -2], |t| t.int64_data = vec![1, -2]);
    check([1_u64, u64::MAX], |t| t.uint64_data = vec![1, u64::MAX]);
    check([1_u32, u32::MAX], |t| t.uint64_data = vec![1, u32::MAX.into()]);
    check([1_i8, -2], |t| t.int32_data = vec![1, -2]);
    check([1_u8, 255], |t| t.int32_data = vec![1, 255]);
    check([1_i16, -2], |t| t.int32_data = vec![1, -2]);
    check([1_u16, 65535], |t| t.int32_data = vec![1, 65535]);
    check([Boolean::from(true), Boolean::from(false)], |t| t.int32_data = vec![1, 0]);
    check([f16::ONE, f16::NEG_ONE], |t| t.int32_data = vec![0x3c00, 0xbc00]);
    check([bf16::ONE, bf16::NEG_ONE], |t| t.int32_data = vec![0x3f80, 0xbf80]);
}

#[test]
fn wrong_tensors_give_errors() {
    let error = |tensor| weight(tensor).unwrap_err().to_string();
    let f32_of = |dims: &[i64]| TensorProto { dims: dims.to_vec(), ..f32s("", &[], &[1.0, 2.0]) };
    assert_eq!(error(f32_of(&[3])), "tensor \"w\": shape [3] of f32 needs 12 bytes, found 8");
    assert_eq!(error(f32_of(&[-2])), "tensor \"w\": negative dimension in [-2]");
    assert_eq!(error(f32_of(&[1; 65])), "tensor \"w\": rank 65 is more than 64");
    // A tensor that claims a petabyte costs nothing.
    assert!(error(f32_of(&[1 << 25, 1 << 25])).contains("needs 4503599627370496 bytes, found 8"));
    assert!(error(f32_of(&[1 << 40, 1 << 40])).contains("more bytes than memory can address"));
    assert!(error(f32_of(&[0, i64::MAX, 2])).contains("more bytes than memory can address"));
    let both = TensorProto { float_data: vec![1.0, 2.0], ..f32_of(&[2]) };
    assert_eq!(error(both), "tensor \"w\": it has both raw and typed data");
    let wide = typed(DataType::U8, |t| t.int32_data = vec![1, 256]);
    assert_eq!(error(wide), "tensor \"w\": 256 is not a value of u8");
    let wrong_field = typed(DataType::F32, |t| t.int32_data = vec![1, 2]);
    assert_eq!(error(wrong_field), "tensor \"w\": shape [2] of f32 needs 8 bytes, found 0");
    let segment = TensorProto { segment: Some(Box::new(Segment { begin: 0, end: 1 })), ..f32_of(&[2]) };
    assert_eq!(error(segment), "tensor \"w\": it is split into segments, which is not supported");
}

#[test]
fn types_that_poda_lacks_are_refused_only_if_used() {
    let read = |input| {
        let mut proto = graph(&["x"], None, vec![node("Relu", &[input], &["y"], vec![])], &["y"]);
        proto.initializer = vec![TensorProto { name: "w".into(), data_type: 22, ..TensorProto::default() }];
        read(&model(21, proto))
    };
    assert!(read("x").is_ok());
    let error = read("w").unwrap_err().to_string();
    assert_eq!(error, "node \"\" uses \"w\", a value of type INT4, which is not supported");
}

#[test]
fn aligned_weights_stay_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let mut shared = 0;
    // Names of growing length push the data over every alignment.
    for pad in 0..4 {
        let mut proto = graph(&["x"], None, vec![node("Relu", &["x"], &["y"], vec![])], &["y"]);
        proto.name = "p".repeat(pad);
        proto.initializer = vec![f32s("w", &[64], &[1.0; 64])];
        std::fs::write(&path, model(13, proto).encode_to_vec()).unwrap();
        let graph = crate::onnx::read(&path).unwrap();
        let Some(Weight::Tensor(tensor)) = graph.weight(graph.find("w").unwrap()) else { panic!() };
        assert_eq!(tensor.as_slice::<f32>().unwrap(), [1.0; 64]);
        shared += u32::from(tensor.storage().is_mapped());
    }
    assert_eq!(shared, 1);
}
