// Loads a NATS server as `telstar bench send` loads a broker: JetStream, kept in files, every message awaited.
//
//	nats-load URL CONNECTIONS WINDOW SIZE SECONDS
//
// Prints what `telstar bench send --json` prints of the same: messagesPerSecond, and latencyUs where the window is one.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

const subjects = 16

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "nats-load:", err)
		os.Exit(1)
	}
}

func number(arg int) int {
	n, err := strconv.Atoi(os.Args[arg])
	check(err)
	return n
}

func main() {
	if len(os.Args) != 6 {
		check(fmt.Errorf("usage: nats-load URL CONNECTIONS WINDOW SIZE SECONDS"))
	}
	url, connections, window, body := os.Args[1], number(2), number(3), make([]byte, number(4))
	duration := time.Duration(number(5)) * time.Second

	first, err := nats.Connect(url)
	check(err)
	streams, err := first.JetStream()
	check(err)
	// Made by the first run, used by those that follow.
	_, err = streams.AddStream(&nats.StreamConfig{Name: "load", Subjects: []string{"load.*"}, Storage: nats.FileStorage})
	check(err)

	var stored atomic.Int64
	var latencies []time.Duration
	var lock sync.Mutex
	var running sync.WaitGroup
	begun := time.Now()
	until := begun.Add(duration)
	for c := 0; c < connections; c++ {
		connection, err := nats.Connect(url)
		check(err)
		stream, err := connection.JetStream(nats.PublishAsyncMaxPending(window))
		check(err)
		running.Add(1)
		go func(c int) {
			defer running.Done()
			var own []time.Duration
			for n := c; ; n++ {
				at := time.Now()
				if !at.Before(until) {
					break
				}
				subject := "load." + strconv.Itoa(n%subjects)
				if window == 1 {
					_, err := stream.Publish(subject, body)
					check(err)
					own = append(own, time.Since(at))
					stored.Add(1)
					continue
				}
				// Waits while a window of them is not answered.
				_, err := stream.PublishAsync(subject, body, nats.StallWait(10*time.Second))
				check(err)
				stored.Add(1)
			}
			<-stream.PublishAsyncComplete()
			lock.Lock()
			latencies = append(latencies, own...)
			lock.Unlock()
		}(c)
	}
	running.Wait()
	elapsed := time.Since(begun).Seconds()

	report := map[string]any{"messages": stored.Load(), "messagesPerSecond": float64(stored.Load()) / elapsed}
	if len(latencies) > 0 {
		sort.Slice(latencies, func(a, b int) bool { return latencies[a] < latencies[b] })
		at := func(quantile float64) float64 {
			return float64(latencies[int(quantile*float64(len(latencies)-1))].Nanoseconds()) / 1e3
		}
		report["latencyUs"] = map[string]float64{"p50": at(0.5), "p99": at(0.99), "p999": at(0.999)}
	}
	check(json.NewEncoder(os.Stdout).Encode(report))
}
