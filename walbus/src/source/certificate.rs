//! What is needed of a server's certificate beside rustls: the hash for channel binding (RFC 5929, "tls-server-end-point"), the
//! names as libpq compares them, and the validity of one that is trusted by itself. Pure.
//!
//! Reads X.509 as DER (RFC 5280). Whether a certificate is to be trusted is never decided by what is read here alone.

use std::net::IpAddr;

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const OCTET_STRING: u8 = 0x04;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

const OID_COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const OID_SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1D, 0x11];
/// 1.2.840.113549.1.1: RSA's.
const OID_RSA: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01];
/// 1.2.840.10045.4: ECDSA's.
const OID_ECDSA: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04];
/// 2.16.840.1.101.3.4.2: the SHA-2 family's.
const OID_SHA2: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];

/// A parsed certificate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Certificate<'a> {
    der: &'a [u8],
    /// Whether it is of version 1, which webpki does not read.
    pub(super) is_v1: bool,
    /// The public key with its algorithm, as DER.
    pub(super) public_key: &'a [u8],
    /// First and last second of its life, since 1970.
    pub(super) validity: (i64, i64),
    subject: &'a [u8],
    extensions: &'a [u8],
    signature_algorithm: &'a [u8],
}

/// The names of a certificate that a host may have.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) dns: Vec<String>,
    pub(super) ip: Vec<IpAddr>,
    pub(super) common_name: Option<String>,
}

/// One element: its tag, its content, and both with the length between.
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    whole: &'a [u8],
}

/// Takes the first element off `der`.
fn element<'a>(der: &mut &'a [u8]) -> Option<Element<'a>> {
    let start = *der;
    let (tag, rest) = start.split_first()?;
    let (first, mut rest) = rest.split_first()?;
    let mut length = usize::from(*first);
    if length >= 0x80 {
        let digits = length - 0x80;
        if digits == 0 || digits > 4 {
            return None;
        }
        let (bytes, after) = rest.split_at_checked(digits)?;
        length = bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        rest = after;
    }
    let (content, after) = rest.split_at_checked(length)?;
    *der = after;
    Some(Element { tag: *tag, content, whole: &start[..start.len() - after.len()] })
}

/// Takes an element of this tag off `der`.
fn expect<'a>(der: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    element(der).filter(|element| element.tag == tag).map(|element| element.content)
}

impl<'a> Certificate<'a> {
    /// Reads a certificate, `None` where it is none.
    pub(super) fn parse(der: &'a [u8]) -> Option<Self> {
        let mut outer = expect(&mut &*der, SEQUENCE)?;
        let mut tbs = expect(&mut outer, SEQUENCE)?;
        let signature_algorithm = expect(&mut outer, SEQUENCE)?;
        let is_v1 = tbs.first() != Some(&0xA0);
        if !is_v1 {
            element(&mut tbs)?;
        }
        // Serial number, signature algorithm, issuer.
        for _ in 0..3 {
            element(&mut tbs)?;
        }
        let mut validity = expect(&mut tbs, SEQUENCE)?;
        let validity = (time(&mut validity)?, time(&mut validity)?);
        let subject = expect(&mut tbs, SEQUENCE)?;
        let public_key = element(&mut tbs).filter(|element| element.tag == SEQUENCE)?.whole;
        let mut extensions: &[u8] = &[];
        while let Some(element) = element(&mut tbs) {
            if element.tag == 0xA3 {
                extensions = expect(&mut &*element.content, SEQUENCE)?;
            }
        }
        Some(Self { der, is_v1, public_key, validity, subject, extensions, signature_algorithm })
    }

    /// What channel binding binds to: the certificate's hash by the hash of its own signature, and SHA-256 in place of MD5 and SHA-1.
    /// `None` where the signature has no such hash, as Ed25519, which RFC 5929 leaves undefined.
    pub(super) fn end_point_hash(&self) -> Option<Vec<u8>> {
        let mut algorithm = self.signature_algorithm;
        let oid = expect(&mut algorithm, OID)?;
        if let Some([number]) = oid.strip_prefix(OID_RSA) {
            return match number {
                // With MD5 and SHA-1.
                4 | 5 => self.hash(256),
                10 => self.hash(pss_hash(algorithm)?),
                11 => self.hash(256),
                12 => self.hash(384),
                13 => self.hash(512),
                14 => self.hash(224),
                _ => None,
            };
        }
        match oid.strip_prefix(OID_ECDSA)? {
            // With SHA-1.
            [1] => self.hash(256),
            [3, 1] => self.hash(224),
            [3, 2] => self.hash(256),
            [3, 3] => self.hash(384),
            [3, 4] => self.hash(512),
            _ => None,
        }
    }

    fn hash(&self, bits: u16) -> Option<Vec<u8>> {
        Some(match bits {
            224 => Sha224::digest(self.der).to_vec(),
            256 => Sha256::digest(self.der).to_vec(),
            384 => Sha384::digest(self.der).to_vec(),
            512 => Sha512::digest(self.der).to_vec(),
            _ => return None,
        })
    }

    /// Its names. What can't be read is left out.
    pub(super) fn names(&self) -> Names {
        let mut names = Names { common_name: self.common_name(), ..Names::default() };
        let mut left = self.subject_alt_names().unwrap_or_default();
        while let Some(name) = element(&mut left) {
            match (name.tag, name.content) {
                (0x82, dns) => names.dns.extend(text(dns)),
                (0x87, ip) => {
                    let v4 = <[u8; 4]>::try_from(ip).map(IpAddr::from);
                    names.ip.extend(v4.or_else(|_| <[u8; 16]>::try_from(ip).map(IpAddr::from)));
                }
                _ => {}
            }
        }
        names
    }

    fn common_name(&self) -> Option<String> {
        let mut left = self.subject;
        while let Some(mut set) = expect(&mut left, SET) {
            while let Some(mut attribute) = expect(&mut set, SEQUENCE) {
                if expect(&mut attribute, OID)? == OID_COMMON_NAME {
                    return text(element(&mut attribute)?.content);
                }
            }
        }
        None
    }

    fn subject_alt_names(&self) -> Option<&'a [u8]> {
        let mut left = self.extensions;
        while let Some(mut extension) = expect(&mut left, SEQUENCE) {
            if expect(&mut extension, OID)? == OID_SUBJECT_ALT_NAME {
                // A boolean may stand before the value.
                while let Some(element) = element(&mut extension) {
                    if element.tag == OCTET_STRING {
                        return expect(&mut &*element.content, SEQUENCE);
                    }
                }
            }
        }
        None
    }
}

/// The hash's size in RSASSA-PSS' parameters; SHA-1, the default, counts as SHA-256.
fn pss_hash(mut algorithm: &[u8]) -> Option<u16> {
    let mut parameters = expect(&mut algorithm, SEQUENCE)?;
    let Some(mut hash) = expect(&mut parameters, 0xA0) else { return Some(256) };
    let mut hash = expect(&mut hash, SEQUENCE)?;
    match expect(&mut hash, OID)?.strip_prefix(OID_SHA2)? {
        [1] => Some(256),
        [2] => Some(384),
        [3] => Some(512),
        [4] => Some(224),
        _ => None,
    }
}

/// A name without NUL: one with it is an attack on those who compare up to it.
fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok().filter(|text| !text.contains('\0'))
}

/// A time in seconds since 1970: `YYMMDDhhmmssZ` or `YYYYMMDDhhmmssZ`.
fn time(der: &mut &[u8]) -> Option<i64> {
    let element = element(der)?;
    let digits = element.content.strip_suffix(b"Z")?;
    let mut pairs = digits.chunks_exact(2).map(|pair| match pair {
        [high @ b'0'..=b'9', low @ b'0'..=b'9'] => Some(i64::from(high - b'0') * 10 + i64::from(low - b'0')),
        _ => None,
    });
    let mut next = || pairs.next().flatten();
    let year = match (element.tag, digits.len()) {
        (UTC_TIME, 12) => next().map(|year| if year < 50 { 2000 + year } else { 1900 + year })?,
        (GENERALIZED_TIME, 14) => next()? * 100 + next()?,
        _ => return None,
    };
    let (month, day) = (next()?, next()?);
    let (hour, minute, second) = (next()?, next()?, next()?);
    // Days since 1970 of the civil calendar, years counted from March so that the leap day is their last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * month + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

impl Names {
    /// Whether a server of these names may call itself `host`, by libpq's rules: an alternative name, or, where there is none of the
    /// kind that the host is, the common name; a star stands for one whole label at the start.
    pub(super) fn matches(&self, host: &str) -> bool {
        let address: Option<IpAddr> = host.parse().ok();
        if address.is_some_and(|address| self.ip.contains(&address)) || self.dns.iter().any(|name| name_matches(name, host)) {
            return true;
        }
        let may_be_common = if address.is_some() { self.ip.is_empty() } else { self.dns.is_empty() };
        may_be_common && self.common_name.as_deref().is_some_and(|name| name_matches(name, host))
    }

    /// All of them, to be shown.
    pub(super) fn shown(&self) -> String {
        let mut all: Vec<String> = self.dns.clone();
        all.extend(self.ip.iter().map(IpAddr::to_string));
        if all.is_empty() {
            all.extend(self.common_name.clone());
        }
        if all.is_empty() { "nobody".to_owned() } else { all.join(", ") }
    }
}

fn name_matches(name: &str, host: &str) -> bool {
    if name.eq_ignore_ascii_case(host) {
        return !name.is_empty();
    }
    match (name.strip_prefix("*."), host.split_once('.')) {
        (Some(domain), Some((label, rest))) => {
            !label.is_empty() && !domain.is_empty() && domain.eq_ignore_ascii_case(rest) && host.parse::<IpAddr>().is_err()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_seconds_since_1970() {
        let read = |tag: u8, text: &[u8]| time(&mut &[&[tag, u8::try_from(text.len()).unwrap()], text].concat()[..]);
        assert_eq!(read(UTC_TIME, b"700101000000Z"), Some(0));
        assert_eq!(read(UTC_TIME, b"491231235959Z"), Some(2_524_607_999));
        assert_eq!(read(GENERALIZED_TIME, b"20000229120000Z"), Some(951_825_600));
        assert_eq!(read(GENERALIZED_TIME, b"99991231235959Z"), Some(253_402_300_799));
        for broken in [&b"7001010000Z"[..], b"700101000000", b"7001010000x0Z", b""] {
            assert_eq!(read(UTC_TIME, broken), None);
        }
    }

    #[test]
    fn names_match_as_in_libpq() {
        let names = |dns: &[&str], ip: &[&str], common: &str| Names {
            dns: dns.iter().map(|name| (*name).to_owned()).collect(),
            ip: ip.iter().map(|ip| ip.parse().unwrap()).collect(),
            common_name: Some(common.to_owned()),
        };
        assert!(names(&["DB.example.com"], &[], "x").matches("db.example.com"));
        assert!(names(&["*.example.com"], &[], "x").matches("db.example.com"));
        assert!(!names(&["*.example.com"], &[], "x").matches("a.b.example.com"));
        assert!(!names(&["*.example.com"], &[], "x").matches("example.com"));
        assert!(!names(&["*"], &[], "x").matches("db"));
        assert!(!names(&["d*.example.com"], &[], "x").matches("db.example.com"));
        assert!(!names(&["other"], &[], "db").matches("db"), "alternative names take the common name's place");
        assert!(names(&[], &["10.0.0.1"], "db").matches("db"));
        assert!(names(&["other"], &["10.0.0.1"], "x").matches("10.0.0.1"));
        assert!(names(&["10.0.0.1"], &[], "x").matches("10.0.0.1"));
        assert!(names(&["other"], &[], "10.0.0.1").matches("10.0.0.1"));
        assert!(!names(&["*.0.0.1"], &["10.0.0.2"], "10.0.0.1").matches("10.0.0.1"));
        assert!(!names(&[""], &[], "").matches(""));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer(der: Vec<u8>) {
            if let Some(certificate) = Certificate::parse(&der) {
                drop((certificate.end_point_hash(), certificate.names()));
            }
        }
    }
}
