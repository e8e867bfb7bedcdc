# Asks as Chrome does. The first argument is the number of a version of HTTP, each further one a connection: the paths that are asked for on it, with
# commas between.
import sys

from curl_cffi import CurlHttpVersion, requests

version = {"1": CurlHttpVersion.V1_1, "2": CurlHttpVersion.V2TLS}[sys.argv[1]]
for connection in sys.argv[2:]:
    with requests.Session(verify=False, impersonate="chrome", http_version=version, timeout=5) as session:
        for path in connection.split(","):
            try:
                print(session.get("https://10.99.0.2:8443" + path).status_code)
            except requests.exceptions.RequestException as error:
                print(error)
