//! System calls that no library offers.
