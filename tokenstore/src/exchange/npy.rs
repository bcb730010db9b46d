//! NumPy's `.npy`, format 1 to 3 (numpy.lib.format): a magic, a line of Python that says type, order and shape, and the
//! array.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use super::{Column, Dtype, ImportError};
use crate::{CorruptFile, DiskError};

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Bytes of the line: NumPy's own bound for headers that are not trusted.
const HEADER_BYTES_MAX: u32 = 10_000;

/// The bytes of a file before its array.
pub(super) fn header(dtype: Dtype, shape: &[u64]) -> Vec<u8> {
    let descr = match dtype {
        Dtype::F32 => "<f4",
        Dtype::F16 => "<f2",
        Dtype::U8 => "|u1",
        Dtype::I64 => "<i8",
        Dtype::U32 => "<u4",
    };
    let sizes: String = shape.iter().map(|size| format!("{size}, ")).collect();
    let sizes = if shape.len() == 1 { sizes.trim_end() } else { sizes.trim_end_matches(", ") };
    let mut line = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({sizes}), }}");
    let begin = MAGIC.len() + 4;
    let padding = (begin + line.len() + 1).next_multiple_of(64) - (begin + line.len() + 1);
    line.extend(std::iter::repeat_n(' ', padding));
    line.push('\n');
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&[1, 0]);
    bytes.extend_from_slice(&(line.len() as u16).to_le_bytes());
    bytes.extend_from_slice(line.as_bytes());
    bytes
}

/// Opens an array; `None` if there is no such file.
pub(super) fn open(path: &Path) -> Result<Option<Column>, ImportError> {
    let failed = |action| move |source| DiskError { action, path: path.to_owned(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(failed("open"))?,
    };
    let length = file.metadata().map_err(failed("look at"))?.len();
    let corrupt = |at, expected| CorruptFile::new(path, at, expected);
    let read = |bytes: &mut [u8], at| match file.read_exact_at(bytes, at) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err(ImportError::File(corrupt(length, "a whole header")))
        }
        result => Ok(result.map_err(failed("read"))?),
    };
    let mut fixed = [0; 12];
    read(&mut fixed, 0)?;
    let (at, bytes) = match (fixed.starts_with(MAGIC), fixed[6]) {
        (true, 1) => (10, u32::from(u16::from_le_bytes([fixed[8], fixed[9]]))),
        (true, 2 | 3) => (12, u32::from_le_bytes([fixed[8], fixed[9], fixed[10], fixed[11]])),
        _ => return Err(corrupt(0, "the magic of a .npy file, format 1 to 3").into()),
    };
    if bytes > HEADER_BYTES_MAX {
        return Err(corrupt(8, "a header of at most 10,000 bytes").into());
    }
    let mut line = vec![0; bytes as usize];
    read(&mut line, at)?;
    let expected = "{'descr': one of <f4 <f2 |u1 <i8 <u4, 'fortran_order': False, 'shape': (…)}";
    let array = std::str::from_utf8(&line).ok().and_then(parse).ok_or_else(|| corrupt(at, expected))?;
    let at = at + u64::from(bytes);
    Ok(Some(Column::new(file, path, at, length.saturating_sub(at), array)?))
}

/// Type and shape of a row-major array.
fn parse(line: &str) -> Option<(Dtype, Vec<u64>)> {
    let mut rest = line.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
    let (mut dtype, mut rows_first, mut shape) = (None, false, None);
    while !rest.is_empty() {
        let (key, after) = quoted(rest)?;
        let value = after.trim_start().strip_prefix(':')?.trim_start();
        rest = match key {
            "descr" => {
                let (descr, after) = quoted(value)?;
                dtype = Some(match descr {
                    "<f4" => Dtype::F32,
                    "<f2" => Dtype::F16,
                    "|u1" => Dtype::U8,
                    "<i8" => Dtype::I64,
                    "<u4" => Dtype::U32,
                    _ => return None,
                });
                after
            }
            "fortran_order" => {
                rows_first = true;
                value.strip_prefix("False")?
            }
            "shape" => {
                let (sizes, after) = value.strip_prefix('(')?.split_once(')')?;
                let sizes = sizes.trim().trim_end_matches(',');
                let parsed: Result<Vec<u64>, _> = sizes.split(',').map(|size| size.trim().parse()).collect();
                shape = Some(if sizes.is_empty() { Vec::new() } else { parsed.ok()? });
                after
            }
            _ => return None,
        };
        rest = rest.trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
    rows_first.then_some((dtype?, shape?))
}

fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
    text[1..].split_once(quote)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_what_numpy_writes() {
        let bytes = header(Dtype::F16, &[3, 4]);
        let line = "{'descr': '<f2', 'fortran_order': False, 'shape': (3, 4), }";
        assert_eq!(bytes[..10], *b"\x93NUMPY\x01\x00\x76\x00");
        assert_eq!((bytes.len(), &bytes[10..10 + line.len()], bytes[127]), (128, line.as_bytes(), b'\n'));
        assert!(String::from_utf8_lossy(&header(Dtype::I64, &[5])[10..]).contains("'shape': (5,), }"));
        assert!(String::from_utf8_lossy(&header(Dtype::I64, &[])[10..]).contains("'shape': (), }"));
    }

    #[test]
    fn lines_are_read_as_python_would() {
        let cases: [(&str, Option<(Dtype, Vec<u64>)>); 12] = [
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }   \n", Some((Dtype::F32, vec![2, 3]))),
            ("{\"shape\": (7,), \"descr\": \"|u1\", \"fortran_order\": False}", Some((Dtype::U8, vec![7]))),
            ("{'descr':'<i8','fortran_order':False,'shape':()}", Some((Dtype::I64, vec![]))),
            ("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", None),
            ("{'descr': '>f4', 'fortran_order': False, 'shape': (2, 3), }", None),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, 3), }", None),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }", None),
            ("{'descr': '<f4', 'shape': (2, 3), }", None),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), 'x': 1}", None),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3", None),
            ("é", None),
            ("", None),
        ];
        for (line, expected) in cases {
            assert_eq!(parse(line), expected, "{line}");
        }
    }
}
