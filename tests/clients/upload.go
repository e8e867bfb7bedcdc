// Puts a file to a URL in clear text, twice on one connection, as Go's own client does it: with sendfile. Ends with 1 where that fails.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
)

func main() {
	for range 2 {
		file, err := os.Open(os.Args[2])
		if err != nil {
			panic(err)
		}
		information, err := file.Stat()
		if err != nil {
			panic(err)
		}
		request, err := http.NewRequest("PUT", os.Args[1], file)
		if err != nil {
			panic(err)
		}
		request.ContentLength = information.Size()
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
	}
}
