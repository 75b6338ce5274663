//! The engine trusts its files. If they contradict themselves, it panics, or allocates whatever they ask for.

use std::any::Any;
use std::error::Error;
use std::panic::{self, AssertUnwindSafe};

use serde_json::Value;

type Failure = Box<dyn Error + Send + Sync>;

/// Calls the engine, and turns a panic in it into an error of the file. A panic leaves none of our state half changed.
pub(super) fn guarded<T>(call: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    let called = panic::catch_unwind(AssertUnwindSafe(call));
    called.unwrap_or_else(|panic| Err(contradiction(&*panic)))
}

fn contradiction(panic: &(dyn Any + Send)) -> Failure {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    // A message is one line.
    let text = text.unwrap_or("unknown").replace(char::is_control, " ");
    format!("it contradicts itself: {text}").into()
}

/// Refuses a `precompiled_charsmap` that claims a longer table than it has. The engine would allocate the claimed
/// length.
pub(super) fn check_charsmaps(json: &[u8]) -> Result<(), Failure> {
    const NAME: &str = "precompiled_charsmap";
    // Few files have one, and most files are large.
    if !json.windows(NAME.len()).any(|part| part == NAME.as_bytes()) {
        return Ok(());
    }
    let json: Value = serde_json::from_slice(json)?;
    let mut values = vec![&json];
    while let Some(value) = values.pop() {
        match value {
            Value::Object(object) => {
                if let Some(Value::String(map)) = object.get(NAME)
                    && !is_whole(map)
                {
                    return Err(format!("its {NAME} is cut off").into());
                }
                values.extend(object.values());
            }
            Value::Array(list) => values.extend(list),
            _ => {}
        }
    }
    Ok(())
}

/// Whether a table in base64 is as long as the 32 bits at its beginning say.
fn is_whole(base64: &str) -> bool {
    let sextet = |byte: u8| match byte {
        b'A'..=b'Z' => Some(u32::from(byte - b'A')),
        b'a'..=b'z' => Some(u32::from(byte - b'a') + 26),
        b'0'..=b'9' => Some(u32::from(byte - b'0') + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let digits: Option<Vec<u32>> = base64.bytes().take(6).map(sextet).collect();
    let Some([a, b, c, d, e, f]) = digits.as_deref() else {
        return false;
    };
    // The first four of the bytes that these digits are.
    let length = (a << 26 | b << 20 | c << 14 | d << 8 | e << 2 | f >> 4).swap_bytes();
    u64::from(length) <= base64.len() as u64 / 4 * 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_long_as_it_says() {
        // 4, 0, 0, 0 and four bytes of a table; the same with 5 and 255.
        assert!(is_whole("BAAAAAAAAAA="));
        assert!(is_whole("BQAAAAAAAAA="));
        assert!(!is_whole("/wAAAAAAAAA="));
        assert!(!is_whole("//////8="));
        assert!(!is_whole("AAAA"));
        assert!(!is_whole("BAAA AAAAAA="));
    }

    #[test]
    fn a_panic_is_an_error_of_one_line() {
        let error = guarded::<()>(|| panic!("no\nway")).unwrap_err();
        assert_eq!(error.to_string(), "it contradicts itself: no way");
    }
}
