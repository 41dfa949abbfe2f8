//! Whole flows through a script; nothing is sent anywhere.
