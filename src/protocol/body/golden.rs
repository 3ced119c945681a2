//! Checks a body type against an example of its text, both directions.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::protocol::fastjson::{from_slice, to_vec, to_vec_java};

/// `body` is written as `java` by the writer for Java, and every form that is written reads back as `body`.
pub fn assert_golden<T>(body: &T, java: &str)
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    assert_eq!(String::from_utf8(to_vec_java(body).unwrap()).unwrap(), java);
    assert_eq!(&from_slice::<T>(java.as_bytes()).unwrap(), body);
    assert_eq!(&from_slice::<T>(&to_vec(body).unwrap()).unwrap(), body);
}
