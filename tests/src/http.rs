//! Requests as real programs send them.

/// A request for something below `/static`, as a browser sends it.
#[must_use]
pub fn browsers_request(host: &str) -> Vec<u8> {
    format!(
        "GET /static/js/app.js?v=2024-11-25 HTTP/1.1\r\nHost: {host}\r\nConnection: keep-alive\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36\r\n\
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en-GB,en;q=0.9\r\nCookie: session=0123456789abcdef\r\n\r\n"
    )
    .into_bytes()
}
