//! Model files of any format: which one it is, opening, writing.

use std::io;
use std::path::{Path, PathBuf};

use crate::artifact::{self, ArtifactError};
use crate::graph::Graph;
use crate::onnx::{self, OnnxError, OnnxOptions};
use crate::safetensors::SafeTensors;
use crate::storage::{AlignedBytes, Load, Storage};

/// A format of model files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFormat {
    /// [`onnx`].
    Onnx,
    /// [`artifact`].
    Artifact,
}

impl FileFormat {
    /// All formats.
    pub const ALL: [Self; 2] = [Self::Onnx, Self::Artifact];

    /// What names of such files end in, without the dot.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Onnx => "onnx",
            Self::Artifact => "safetensors",
        }
    }

    /// The format that the name of a file stands for.
    pub fn of_name(path: &Path) -> Option<Self> {
        let extension = path.extension()?;
        Self::ALL.into_iter().find(|format| extension.eq_ignore_ascii_case(format.extension()))
    }

    /// The format that a file is read as: by its content, by its name where the content is damaged or says nothing.
    fn of_file(path: &Path, bytes: &[u8]) -> Self {
        // A header's length that fits the file, then JSON: as the start of a protobuf message, far too large a number.
        let header = bytes.first_chunk().map(|length| u64::from_le_bytes(*length));
        if bytes.get(8) == Some(&b'{') && header.is_some_and(|length| length < bytes.len() as u64) {
            return Self::Artifact;
        }
        Self::of_name(path).unwrap_or(Self::Onnx)
    }
}

/// Why a model cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum OpenError {
    #[error("cannot open {path:?}: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error("{path:?} is empty")]
    Empty { path: PathBuf },
    #[error("{path:?}: {error}")]
    Onnx { path: PathBuf, error: OnnxError },
    #[error("{path:?}: {error}")]
    Artifact { path: PathBuf, error: ArtifactError },
}

/// Why a model cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum WriteError {
    #[error("cannot tell from the name {path:?} which format to write: .onnx and .safetensors are possible")]
    Format { path: PathBuf },
    #[error("cannot write {path:?}: {error}")]
    Onnx { path: PathBuf, error: onnx::WriteError },
    #[error("cannot write {path:?}: {error}")]
    Artifact { path: PathBuf, error: ArtifactError },
}

/// How to write a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteOptions {
    /// For ONNX.
    pub onnx: OnnxOptions,
}

/// Opens the model at `path`, an ONNX file or an artifact. Weights stay in the mapped file where they can: see
/// [`Load::Map`] for the contract.
///
/// # Errors
/// When it is not a regular file, or not a valid model.
pub fn open(path: impl AsRef<Path>) -> Result<Graph, OpenError> {
    open_with(path, Load::default())
}

/// As [`open`], with the file (and those beside it that hold its weights) taken as `load` says.
///
/// # Errors
/// As [`open`].
pub fn open_with(path: impl AsRef<Path>, load: Load) -> Result<Graph, OpenError> {
    let path = path.as_ref();
    let file = Storage::load(path, load).map_err(|error| OpenError::Io { path: path.to_owned(), error })?;
    if file.is_empty() {
        return Err(OpenError::Empty { path: path.to_owned() });
    }
    match FileFormat::of_file(path, file.bytes()) {
        FileFormat::Onnx => onnx::read_file(path, file, load)
            .map_err(|error| OpenError::Onnx { path: path.to_owned(), error }),
        FileFormat::Artifact => read_artifact(file, path),
    }
}

/// Reads a model from bytes, an ONNX file's or an artifact's, which are copied. An ONNX model must hold its weights itself.
/// Errors name the file `(bytes)`.
///
/// # Errors
/// When they are not those of a valid model.
pub fn read_bytes(bytes: &[u8]) -> Result<Graph, OpenError> {
    let path = Path::new("(bytes)");
    if bytes.is_empty() {
        return Err(OpenError::Empty { path: path.to_owned() });
    }
    let file = Storage::owned(AlignedBytes::copy_of(bytes));
    match FileFormat::of_file(path, bytes) {
        FileFormat::Onnx => {
            onnx::read_storage(file).map_err(|error| OpenError::Onnx { path: path.to_owned(), error })
        }
        FileFormat::Artifact => read_artifact(file, path),
    }
}

fn read_artifact(file: Storage, path: &Path) -> Result<Graph, OpenError> {
    SafeTensors::parse(file)
        .map_err(ArtifactError::from)
        .and_then(|file| artifact::parse(&file))
        .map_err(|error| OpenError::Artifact { path: path.to_owned(), error })
}

/// Bytes on disk of the model at `path`, with the files beside an ONNX model that hold its weights.
///
/// # Errors
/// When it cannot be opened, or is ONNX and damaged.
pub fn file_bytes(path: impl AsRef<Path>) -> Result<u64, OpenError> {
    let path = path.as_ref();
    let file = Storage::map(path).map_err(|error| OpenError::Io { path: path.to_owned(), error })?;
    let mut bytes = file.len() as u64;
    if FileFormat::of_file(path, file.bytes()) == FileFormat::Onnx {
        let locations = onnx::external_locations(file)
            .map_err(|error| OpenError::Onnx { path: path.to_owned(), error })?;
        let beside = locations.iter().map(|location| crate::atomic::folder(path).join(location));
        bytes += beside.filter_map(|path| path.metadata().ok()).map(|data| data.len()).sum::<u64>();
    }
    Ok(bytes)
}

/// Writes `graph` to `path`, in the format that the name ends in. A file that is there is replaced once the new one is
/// whole and on disk; `path` may be the very file that the graph's weights are mapped from.
///
/// # Errors
/// When the name ends in nothing known, the graph is not well formed, or the disk refuses.
pub fn write(graph: &Graph, path: impl AsRef<Path>, options: &WriteOptions) -> Result<(), WriteError> {
    let path = path.as_ref();
    match FileFormat::of_name(path) {
        None => Err(WriteError::Format { path: path.to_owned() }),
        Some(FileFormat::Onnx) => onnx::save(graph, path, &options.onnx)
            .map_err(|error| WriteError::Onnx { path: path.to_owned(), error }),
        Some(FileFormat::Artifact) => {
            artifact::save(graph, path).map_err(|error| WriteError::Artifact { path: path.to_owned(), error })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{DataType, Dim, Op, Tensor};

    fn sample() -> Graph {
        let mut g = Graph { name: "sample".into(), ..Graph::default() };
        let w = g.add_weight("w", Tensor::from_slice(&[2, 2], &[1.0_f32, 0.0, 0.0, 1.0]));
        let x = g.add_input("x", DataType::F32, vec![Dim::Symbol("n".into()), Dim::Fixed(2)]);
        let y = g.add_node(Op::MatMul, &[x, w], "y");
        g.value_mut(y).dtype = Some(DataType::F32);
        g.outputs.push(y);
        g
    }

    #[test]
    fn both_formats_are_told_apart_by_content() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let names = |path: &Path| -> Vec<String> {
            open(path).unwrap().values.into_iter().map(|value| value.name).collect()
        };
        for (good, lie) in [("m.onnx", "a.safetensors"), ("m.SafeTensors", "b.onnx"), ("n.onnx", "bare")] {
            write(&sample(), at(good), &WriteOptions::default()).unwrap();
            assert_eq!(names(&at(good)), ["w", "x", "y"]);
            assert_eq!(read_bytes(&fs::read(at(good)).unwrap()).unwrap(), open(at(good)).unwrap());
            fs::copy(at(good), at(lie)).unwrap();
        }
        assert_eq!(names(&at("b.onnx")), ["w", "x", "y"]);
        assert_eq!(names(&at("bare")), ["w", "x", "y"]);
        assert!(matches!(read_bytes(&[]), Err(OpenError::Empty { .. })));
        assert!(matches!(read_bytes(b"no model"), Err(OpenError::Onnx { .. })));
        let error = open(at("a.safetensors")).unwrap_err().to_string();
        assert!(error.contains("a.safetensors") && error.contains("header"), "{error}");
        let error = write(&sample(), at("model.bin"), &WriteOptions::default()).unwrap_err();
        assert!(matches!(error, WriteError::Format { .. }));
    }

    #[test]
    fn a_file_is_replaced_by_what_was_opened_from_it() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["m.onnx", "m.safetensors"] {
            let path = folder.path().join(name);
            write(&sample(), &path, &WriteOptions::default()).unwrap();
            let graph = open(&path).unwrap();
            write(&graph, &path, &WriteOptions::default()).unwrap();
            let again = open(&path).unwrap();
            assert_eq!(again.nodes, sample().nodes);
            assert_eq!(again.values, graph.values);
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_model_file_is_refused_at_once() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("empty.onnx"), "").unwrap();
        fs::write(at("text.onnx"), "hello, this is no model").unwrap();
        fs::write(at("text.safetensors"), "hello, this is no model").unwrap();
        let made = std::process::Command::new("mkfifo").arg(at("pipe.onnx")).status().unwrap();
        assert!(made.success());
        let cases = [
            (at("missing.onnx"), "No such file"),
            (folder.path().to_owned(), "directory"),
            (at("empty.onnx"), "is empty"),
            (at("pipe.onnx"), "not a regular file"),
            (PathBuf::from("/dev/zero"), "not a regular file"),
            (at("text.onnx"), "not an ONNX model"),
            (at("text.safetensors"), "header"),
        ];
        for (path, expected) in cases {
            let error = open(&path).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains(&format!("{path:?}")), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
        let locked = at("locked");
        fs::create_dir(&locked).unwrap();
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
        // The superuser may write there nevertheless.
        if let Err(error) = write(&sample(), locked.join("m.onnx"), &WriteOptions::default()) {
            assert!(error.to_string().contains("denied"), "{error}");
        }
        let error = write(&sample(), at("missing/m.onnx"), &WriteOptions::default()).unwrap_err().to_string();
        assert!(error.contains("missing/m.onnx") && error.contains("No such file"), "{error}");
    }
}
