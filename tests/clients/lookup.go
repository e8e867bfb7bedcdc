// Resolves names with Go's own resolver and connects to what comes back: `lookup RESOLVER COUNT`. Prints how many verdicts were wrong.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"
)

func main() {
	count, err := strconv.Atoi(os.Args[2])
	if err != nil {
		panic(err)
	}
	resolver := &net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, network, os.Args[1])
		},
	}
	wrong := 0
	for number := range count {
		zone, allowed := "good", true
		if number%4 == 3 {
			zone, allowed = "evil", false
		}
		name := fmt.Sprintf("n%d.%s.example.", number, zone)
		addresses, err := resolver.LookupIPAddr(context.Background(), name)
		if err != nil || len(addresses) == 0 {
			fmt.Fprintln(os.Stderr, name, err)
			wrong++
			continue
		}
		for _, address := range addresses {
			connection, err := net.Dial("udp", net.JoinHostPort(address.String(), "443"))
			if err == nil {
				connection.Close()
			}
			// No route leads to some of them, which the kernel says after it has asked the programs.
			refused := errors.Is(err, syscall.EPERM)
			if refused == allowed || err != nil && !refused && !errors.Is(err, syscall.ENETUNREACH) {
				fmt.Fprintln(os.Stderr, name, address, err)
				wrong++
			}
		}
	}
	fmt.Println(wrong)
}
