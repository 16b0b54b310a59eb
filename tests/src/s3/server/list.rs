//! Pages of a list of keys. Nothing is read or written here.

use super::answer::NAMESPACE;
use super::store::Object;
use crate::s3::xml::escape;

/// What to list: a `ListObjectsV2` without its bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ListQuery {
    pub(super) prefix: String,
    pub(super) delimiter: Option<String>,
    pub(super) start_after: Option<String>,
    pub(super) token: Option<String>,
    pub(super) max: usize,
    /// Whether keys are to be percent-encoded, since XML has no way to write some characters.
    pub(super) is_encoded: bool,
}

/// One page.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page<'a> {
    objects: Vec<(&'a str, &'a Object)>,
    /// What keys have in common up to the delimiter, each once.
    prefixes: Vec<&'a str>,
    /// The last key or common prefix of this page, where more follow.
    next: Option<&'a str>,
}

/// The page of `objects`, which are in the order of their keys, that `query` asks for.
pub(super) fn page<'a>(objects: &'a [(String, Object)], query: &ListQuery) -> Page<'a> {
    let mut page = Page { objects: Vec::new(), prefixes: Vec::new(), next: None };
    let token = query.token.as_deref().map(decode_token);
    let mut last = None;
    for (key, object) in objects {
        if !key.starts_with(&query.prefix)
            || query.start_after.as_deref().is_some_and(|after| key.as_str() <= after)
            || token.as_deref().is_some_and(|after| key.as_str() <= after || (is_group(after, query) && key.starts_with(after)))
        {
            continue;
        }
        let group = group(key, query);
        if group.is_some() && group == page.prefixes.last().copied() {
            continue;
        }
        if page.objects.len() + page.prefixes.len() == query.max {
            page.next = last;
            break;
        }
        match group {
            Some(group) => page.prefixes.push(group),
            None => page.objects.push((key, object)),
        }
        last = Some(group.unwrap_or(key));
    }
    page
}

/// What of a key stands for all keys that begin so; `None` where it stands for itself.
fn group<'a>(key: &'a str, query: &ListQuery) -> Option<&'a str> {
    let delimiter = query.delimiter.as_deref()?;
    let rest = key.get(query.prefix.len()..)?;
    let at = rest.find(delimiter)?;
    key.get(..query.prefix.len() + at + delimiter.len())
}

fn is_group(last: &str, query: &ListQuery) -> bool {
    group(last, query) == Some(last)
}

impl Page<'_> {
    pub(super) fn to_xml(&self, bucket: &str, query: &ListQuery) -> String {
        let text = |text: &str| if query.is_encoded { encode(text) } else { escape(text) };
        let mut xml = format!(
            "<ListBucketResult xmlns=\"{NAMESPACE}\"><Name>{}</Name><Prefix>{}</Prefix><MaxKeys>{}</MaxKeys><KeyCount>{}</KeyCount>\
             <IsTruncated>{}</IsTruncated>",
            escape(bucket),
            text(&query.prefix),
            query.max,
            self.objects.len() + self.prefixes.len(),
            self.next.is_some()
        );
        if let Some(delimiter) = &query.delimiter {
            xml.push_str(&format!("<Delimiter>{}</Delimiter>", text(delimiter)));
        }
        if query.is_encoded {
            xml.push_str("<EncodingType>url</EncodingType>");
        }
        if let Some(next) = self.next {
            xml.push_str(&format!("<NextContinuationToken>{}</NextContinuationToken>", encode_token(next)));
        }
        for (key, object) in &self.objects {
            xml.push_str(&format!(
                "<Contents><Key>{}</Key><LastModified>{}</LastModified><ETag>{}</ETag><Size>{}</Size>\
                 <StorageClass>STANDARD</StorageClass></Contents>",
                text(key),
                object.iso_date(),
                escape(&object.etag),
                object.size
            ));
        }
        for prefix in &self.prefixes {
            xml.push_str(&format!("<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", text(prefix)));
        }
        xml.push_str("</ListBucketResult>");
        xml
    }
}

/// Percent-encoding, of all but what stands for itself in a URL's path.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// A token says nothing to its reader: hex.
fn encode_token(last: &str) -> String {
    super::answer::hex(last.as_bytes())
}

fn decode_token(token: &str) -> String {
    let digits: Vec<u8> = token.bytes().collect();
    let bytes = digits.chunks(2).map(|pair| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()));
    bytes.collect::<Option<Vec<u8>>>().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(keys: &[&str]) -> Vec<(String, Object)> {
        keys.iter().map(|key| ((*key).to_owned(), Object { size: 1, etag: "\"e\"".to_owned(), modified_ns: 0 })).collect()
    }

    /// All pages of so many entries, one after the other.
    fn walk(keys: &[&str], query: &ListQuery) -> Vec<String> {
        let objects = objects(keys);
        let mut query = query.clone();
        let mut seen = Vec::new();
        for _ in 0..100 {
            let page = page(&objects, &query);
            assert!(page.objects.len() + page.prefixes.len() <= query.max);
            seen.extend(page.objects.iter().map(|(key, _)| (*key).to_owned()));
            seen.extend(page.prefixes.iter().map(|prefix| (*prefix).to_owned()));
            let Some(next) = page.next else { return seen };
            query.token = Some(encode_token(next));
        }
        panic!("no end: {seen:?}");
    }

    #[test]
    fn each_page_begins_where_the_last_ended() {
        let keys = ["a", "b/1", "b/2", "b/3/x", "b0", "c", "d/1"];
        for max in 1..9 {
            let all = ListQuery { max, ..ListQuery::default() };
            assert_eq!(walk(&keys, &all), keys);
            let mut grouped = walk(&keys, &ListQuery { delimiter: Some("/".to_owned()), ..all.clone() });
            grouped.sort();
            assert_eq!(grouped, ["a", "b/", "b0", "c", "d/"]);
            let mut below = walk(&keys, &ListQuery { delimiter: Some("/".to_owned()), prefix: "b/".to_owned(), ..all.clone() });
            below.sort();
            assert_eq!(below, ["b/1", "b/2", "b/3/"]);
            assert_eq!(walk(&keys, &ListQuery { start_after: Some("b/2".to_owned()), ..all }), ["b/3/x", "b0", "c", "d/1"]);
        }
    }

    #[test]
    fn a_page_of_nothing_is_the_last() {
        let objects = objects(&["a"]);
        assert_eq!(page(&objects, &ListQuery { max: 0, ..ListQuery::default() }).next, None);
        assert_eq!(page(&objects, &ListQuery { prefix: "b".to_owned(), max: 5, ..ListQuery::default() }).objects, []);
    }

    #[test]
    fn keys_that_xml_can_not_hold_are_encoded() {
        let objects = objects(&["a&<b", "é +"]);
        let query = ListQuery { max: 5, ..ListQuery::default() };
        assert!(page(&objects, &query).to_xml("b", &query).contains("<Key>a&amp;&lt;b</Key>"));
        let query = ListQuery { is_encoded: true, ..query };
        assert!(page(&objects, &query).to_xml("b", &query).contains("<Key>%C3%A9%20%2B</Key>"));
    }
}
