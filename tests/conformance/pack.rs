//! The packed suite: a zstd-compressed tar of folders.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

const BLOCK: usize = 512;

/// The files of each test by their path within it; tests by `group/name`.
pub(crate) fn read(path: &Path) -> BTreeMap<String, BTreeMap<String, Vec<u8>>> {
    let file = File::open(path).expect("the suite is committed");
    let mut archive = Vec::new();
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(file).expect("zstd");
    decoder.read_to_end(&mut archive).expect("zstd");

    let mut tests = BTreeMap::<String, BTreeMap<String, Vec<u8>>>::new();
    let mut rest = archive.as_slice();
    // An archive ends in blocks of zeros.
    while rest.len() >= BLOCK && rest[0] != 0 {
        let (header, body) = rest.split_at(BLOCK);
        let text = |range: std::ops::Range<usize>| {
            let field = header[range].split(|&b| b == 0).next().unwrap_or_default();
            std::str::from_utf8(field).expect("ASCII fields").trim()
        };
        let len = usize::from_str_radix(text(124..136), 8).expect("an octal size");
        let path = match text(345..500) {
            "" => text(0..100).to_owned(),
            prefix => format!("{prefix}/{}", text(0..100)),
        };
        if header[156] == b'0' {
            let mut parts = path.splitn(3, '/');
            let mut part = || parts.next().expect("group/test/file");
            let test = format!("{}/{}", part(), part());
            tests.entry(test).or_default().insert(part().to_owned(), body[..len].to_vec());
        }
        rest = &body[len.next_multiple_of(BLOCK)..];
    }
    tests
}
