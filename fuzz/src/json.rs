//! A JSON reader of the plainest kind (RFC 8259), to compare the gateway's reading with. Written for that alone:
//! serde_json would need its `arbitrary_precision` to keep numbers as they came, which would then be on in the gateway
//! that is tested too, as a build has one set of features for each crate.

/// Deeper than any answer; the reader's own stack is what ends.
const MAX_DEPTH: usize = 256;

/// A value.
#[derive(Debug, PartialEq)]
pub(super) enum Json {
    Null,
    Bool,
    /// As it was written.
    Number(String),
    Text(Text),
    Array(Vec<Json>),
    /// In the document's order, a key as often as it stands there.
    Object(Vec<(Text, Json)>),
}

/// A text without its escapes; `None` if that holds half a surrogate pair, which no Unicode text can.
pub(super) type Text = Option<String>;

/// Why there is no value.
#[derive(Debug, PartialEq)]
pub(super) enum Fault {
    NoJson,
    /// It may be JSON, and is nested deeper than this reader goes.
    TooDeep,
}

/// Reads a document.
pub(super) fn read(document: &[u8]) -> Result<Json, Fault> {
    let text = std::str::from_utf8(document).map_err(|_| Fault::NoJson)?;
    let mut rest = text.as_bytes();
    let value = value(&mut rest, 0)?;
    skip_space(&mut rest);
    if rest.is_empty() { Ok(value) } else { Err(Fault::NoJson) }
}

fn skip_space(rest: &mut &[u8]) {
    while let [b' ' | b'\t' | b'\n' | b'\r', after @ ..] = *rest {
        *rest = after;
    }
}

fn takes(rest: &mut &[u8], token: &[u8]) -> bool {
    match rest.strip_prefix(token) {
        Some(after) => {
            *rest = after;
            true
        }
        None => false,
    }
}

fn value(rest: &mut &[u8], depth: usize) -> Result<Json, Fault> {
    if depth > MAX_DEPTH {
        return Err(Fault::TooDeep);
    }
    skip_space(rest);
    match rest.first() {
        Some(b'"') => text(rest).map(Json::Text),
        Some(b'[') => members(rest, b"]", |rest| value(rest, depth + 1)).map(Json::Array),
        Some(b'{') => members(rest, b"}", |rest| {
            let key = text(rest)?;
            skip_space(rest);
            if !takes(rest, b":") {
                return Err(Fault::NoJson);
            }
            Ok((key, value(rest, depth + 1)?))
        })
        .map(Json::Object),
        Some(b'-' | b'0'..=b'9') => number(rest).map(Json::Number),
        _ if takes(rest, b"null") => Ok(Json::Null),
        _ if takes(rest, b"true") || takes(rest, b"false") => Ok(Json::Bool),
        _ => Err(Fault::NoJson),
    }
}

/// What stands between two brackets, the opening of which is next, with commas.
fn members<T>(
    rest: &mut &[u8],
    end: &[u8],
    member: impl Fn(&mut &[u8]) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    *rest = &rest[1..];
    let mut members = Vec::new();
    loop {
        skip_space(rest);
        if members.is_empty() && takes(rest, end) {
            return Ok(members);
        }
        members.push(member(rest)?);
        skip_space(rest);
        if takes(rest, end) {
            return Ok(members);
        }
        if !takes(rest, b",") {
            return Err(Fault::NoJson);
        }
    }
}

fn number(rest: &mut &[u8]) -> Result<String, Fault> {
    let whole = *rest;
    let digits = |rest: &mut &[u8]| {
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        *rest = &rest[count..];
        if count == 0 { Err(Fault::NoJson) } else { Ok(()) }
    };
    takes(rest, b"-");
    if !takes(rest, b"0") {
        digits(rest)?;
    }
    if takes(rest, b".") {
        digits(rest)?;
    }
    if takes(rest, b"e") || takes(rest, b"E") {
        let _ = takes(rest, b"+") || takes(rest, b"-");
        digits(rest)?;
    }
    let number = &whole[..whole.len() - rest.len()];
    Ok(number.iter().map(|byte| char::from(*byte)).collect())
}

/// A text, as UTF-16 in between: that is what its escapes are in.
fn text(rest: &mut &[u8]) -> Result<Text, Fault> {
    if !takes(rest, b"\"") {
        return Err(Fault::NoJson);
    }
    let mut units = Vec::new();
    loop {
        let length = rest.iter().take_while(|byte| !matches!(byte, b'"' | b'\\' | 0..=0x1f)).count();
        let (plain, after) = rest.split_at(length);
        units.extend(std::str::from_utf8(plain).map_err(|_| Fault::NoJson)?.encode_utf16());
        *rest = after;
        if takes(rest, b"\"") {
            return Ok(String::from_utf16(&units).ok());
        }
        let [b'\\', escape, after @ ..] = *rest else { return Err(Fault::NoJson) };
        *rest = after;
        units.push(match escape {
            b'"' | b'\\' | b'/' => u16::from(*escape),
            b'b' => 8,
            b'f' => 12,
            b'n' => 10,
            b'r' => 13,
            b't' => 9,
            b'u' => {
                let digits = after.get(..4).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
                let digits = digits.ok_or(Fault::NoJson)?;
                *rest = &after[4..];
                digits.iter().fold(0, |unit, digit| {
                    unit * 16 + char::from(*digit).to_digit(16).expect("a hex digit") as u16
                })
            }
            _ => return Err(Fault::NoJson),
        });
    }
}
