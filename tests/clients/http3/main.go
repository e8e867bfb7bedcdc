// A server that offers HTTP/3 beside HTTP/1.1 on one port, and a client that takes such an offer and goes on with TCP where QUIC does not get
// through: `server ADDRESS CERTIFICATE KEY`, `client URL TIMES`.
package main

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/imroc/req/v3"
	"github.com/quic-go/quic-go/http3"
)

func serve(address, certificate, key string) error {
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, r.Proto) })
	return http3.ListenAndServeTLS(address, certificate, key, answer)
}

// Says the protocol of each answer. What an offer leads to shows from the second request on; one that is lost with it is asked again.
func ask(url string, times int) error {
	client := req.C().EnableHTTP3().SetTimeout(10 * time.Second).SetCommonRetryCount(1)
	for range times {
		answer, err := client.R().Get(url)
		if err != nil {
			return err
		}
		fmt.Println(answer.StatusCode, answer.Proto)
	}
	return nil
}

func main() {
	var err error
	if os.Args[1] == "server" {
		err = serve(os.Args[2], os.Args[3], os.Args[4])
	} else {
		times, _ := strconv.Atoi(os.Args[3])
		err = ask(os.Args[2], times)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
