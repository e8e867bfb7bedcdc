//! Java's own TLS (JSSE): it is compiled as it runs, so what it sends is opaque, a rule about requests is passed over, and the status says so.

use std::fs;

use ebfw_tests::lab::eventually;

use super::{
    Bench,
    clients::url,
    denied::{NOTES, NOTES_HTTP2, POLICY},
    server::{Program, program},
};

/// Asks for the addresses that it is told, one after the other, and prints the version of HTTP and the status of each answer. Its first argument
/// says by what: both of the clients that Java has.
const CLIENT: &str = r#"
import java.net.*;
import java.net.http.*;
import java.security.cert.X509Certificate;
import java.util.Arrays;
import javax.net.ssl.*;

public class Client {
    // The server's certificate is its own: whoever answers will do.
    static class Anybody extends X509ExtendedTrustManager {
        public void checkClientTrusted(X509Certificate[] chain, String type) {}
        public void checkServerTrusted(X509Certificate[] chain, String type) {}
        public void checkClientTrusted(X509Certificate[] chain, String type, Socket socket) {}
        public void checkServerTrusted(X509Certificate[] chain, String type, Socket socket) {}
        public void checkClientTrusted(X509Certificate[] chain, String type, SSLEngine engine) {}
        public void checkServerTrusted(X509Certificate[] chain, String type, SSLEngine engine) {}
        public X509Certificate[] getAcceptedIssuers() { return new X509Certificate[0]; }
    }

    public static void main(String[] arguments) throws Exception {
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, new TrustManager[] {new Anybody()}, null);
        HttpsURLConnection.setDefaultSSLSocketFactory(context.getSocketFactory());
        HttpsURLConnection.setDefaultHostnameVerifier((name, session) -> true);
        HttpClient client = HttpClient.newBuilder().sslContext(context).build();
        for (String address : Arrays.copyOfRange(arguments, 1, arguments.length)) {
            URI uri = URI.create(address);
            if (arguments[0].equals("URLConnection")) {
                HttpsURLConnection connection = (HttpsURLConnection) uri.toURL().openConnection();
                System.out.println("HTTP_1_1 " + connection.getResponseCode());
                connection.getInputStream().readAllBytes();
            } else {
                HttpResponse<String> answer = client.send(HttpRequest.newBuilder(uri).build(), HttpResponse.BodyHandlers.ofString());
                System.out.println(answer.version() + " " + answer.statusCode());
            }
        }
    }
}
"#;

/// Asks for what is allowed and for what is denied by each of these clients on a connection of its own, and the same of curl, which is seen.
fn is_opaque(server: Program, version: &str, clients: &[&str]) {
    let Some(bench) = Bench::noting(server, POLICY, &[]) else {
        return;
    };
    let (Some(java), Some(curl)) = (program("java"), program("curl")) else {
        return;
    };
    fs::write(bench.server.folder().join("Client.java"), CLIENT).expect("it is writable");
    for by in clients {
        let paths = [format!("/open/{by}"), format!("/admin/{by}")];
        let [open, admin] = paths.each_ref().map(|path| url(path));
        let (said, status) = bench.said(&java, &["Client.java", by, &open, &admin]);
        assert!(status.success(), "{by}");
        assert_eq!(said, format!("{version} 200\n{version} 200\n"), "{by}");
        bench.keeps(by, &paths.each_ref().map(String::as_str), &[]);
    }
    let expected = format!("opaque 0 0 0 0 {}", clients.len());
    eventually("its connections are counted", || {
        bench.standing() == expected
    });
    assert!(bench.seen(&[]).is_empty(), "{:?}", bench.seen(&[]));
    bench.run(&curl, &["-sk", &url("/admin/curl"), &url("/open/curl")]);
    bench.keeps("curl", &["/open/curl"], &["/admin/curl"]);
}

#[test]
fn java_is_opaque_over_http1() {
    is_opaque(NOTES, "HTTP_1_1", &["URLConnection", "HttpClient"]);
}

#[test]
fn java_is_opaque_over_http2() {
    is_opaque(NOTES_HTTP2, "HTTP_2", &["HttpClient"]);
}
