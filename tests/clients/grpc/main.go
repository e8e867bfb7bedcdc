// Calls a method of gRPC over TLS with bytes as the message, as generated code does it. What the server answers is of no interest.
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// raw passes bytes on as they are.
type raw struct{}

func (raw) Name() string                        { return "raw" }
func (raw) Marshal(message any) ([]byte, error) { return *message.(*[]byte), nil }
func (raw) Unmarshal(data []byte, to any) error { *to.(*[]byte) = data; return nil }

func main() {
	secure := credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})
	client, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(secure))
	if err != nil {
		panic(err)
	}
	defer client.Close()
	for _, method := range os.Args[2:] {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		question, answer := []byte("hello"), []byte(nil)
		err := client.Invoke(ctx, method, &question, &answer, grpc.ForceCodec(raw{}))
		cancel()
		fmt.Println(method, err)
	}
}
