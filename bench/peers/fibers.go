// What bench/fibers.c measures, with goroutines on one processor.
package main

import (
	"fmt"
	"runtime"
	"sort"
	"sync"
	"time"
)

const (
	rounds = 9
	tasks  = 200000
	yields = 1000000
	fibers = 100
	timers = 100000
)

func spawnAndJoin() {
	for i := 0; i < tasks; i++ {
		done := make(chan struct{})
		go func() { close(done) }()
		<-done
	}
}

func together(n int, f func()) {
	var all sync.WaitGroup
	all.Add(n)
	for i := 0; i < n; i++ {
		go func() { f(); all.Done() }()
	}
	all.Wait()
}

func yield() {
	together(fibers, func() {
		for i := 0; i < yields/fibers; i++ {
			runtime.Gosched()
		}
	})
}

func sleep() { together(timers, func() { time.Sleep(time.Millisecond) }) }

func main() {
	runtime.GOMAXPROCS(1)
	for _, b := range []struct {
		name string
		run  func()
		n    int
	}{{"submit+join", spawnAndJoin, tasks}, {"yield", yield, yields}, {"sleep 1 ms", sleep, timers}} {
		var ns []float64
		for r := 0; r < rounds; r++ {
			start := time.Now()
			b.run()
			ns = append(ns, float64(time.Since(start).Nanoseconds())/float64(b.n))
		}
		sort.Float64s(ns)
		fmt.Printf("%-14s %10.1f ns\n", b.name, ns[rounds/2])
	}
}
