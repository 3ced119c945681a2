package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

// By number: 0 committed, 1 rolled back, 2 committed when asked, 3 rolled back when asked, and so on.
type decisions struct {
	asked sync.Map
}

func (d *decisions) ExecuteLocalTransaction(half *primitive.Message) primitive.LocalTransactionState {
	switch number(half) % 4 {
	case 0:
		return primitive.CommitMessageState
	case 1:
		return primitive.RollbackMessageState
	default:
		return primitive.UnknowState
	}
}

func (d *decisions) CheckLocalTransaction(half *primitive.MessageExt) primitive.LocalTransactionState {
	d.asked.Store(number(&half.Message), true)
	if number(&half.Message)%4 == 2 {
		return primitive.CommitMessageState
	}
	return primitive.RollbackMessageState
}

func transactions() error {
	name, err := topic(4)
	if err != nil {
		return err
	}
	decided := &decisions{}
	p, err := rocketmq.NewTransactionProducer(decided, producer.WithNsResolver(names()),
		producer.WithGroupName(unused("producers")), producer.WithInstanceName(unused("client")))
	if err != nil {
		return err
	}
	if err := p.Start(); err != nil {
		return err
	}
	defer p.Shutdown()
	c, err := startPush(name, everything(), nil)
	if err != nil {
		return err
	}
	defer c.Shutdown()
	sent := letters(name, 40)
	for _, letter := range sent {
		if _, err := p.SendMessageInTransaction(background, letter); err != nil {
			return err
		}
	}
	if err := c.inbox.awaitJust(where(sent, func(m *primitive.Message) bool { return number(m)%2 == 0 })); err != nil {
		return err
	}
	for n := range sent {
		if _, asked := decided.asked.Load(n); asked && n%4 < 2 {
			return fmt.Errorf("transaction %d was decided, and yet asked about", n)
		}
	}
	return nil
}

// None came before its time, which is measured by the server's clock and the client's on one machine.
func noneBefore(arrived []*primitive.MessageExt, earliest func(*primitive.MessageExt) int64) error {
	for _, m := range arrived {
		if m.StoreTimestamp < earliest(m) {
			return fmt.Errorf("message %d came %d ms early", number(&m.Message), earliest(m)-m.StoreTimestamp)
		}
	}
	return nil
}

func delayLevels() error {
	name, p, c, end, err := pair(2, everything(), nil)
	if err != nil {
		return err
	}
	defer end()
	sent := letters(name, 20)
	for _, letter := range sent {
		letter.WithDelayTimeLevel(1 + number(letter)%2) // 1 s, 5 s
	}
	if err := sendAll(p, sent); err != nil {
		return err
	}
	if err := c.inbox.awaitJust(sent); err != nil {
		return err
	}
	return noneBefore(c.inbox.all(), func(m *primitive.MessageExt) int64 {
		return m.BornTimestamp + []int64{1_000, 5_000}[number(&m.Message)%2]
	})
}

func timers() error {
	name, p, c, end, err := pair(2, everything(), nil)
	if err != nil {
		return err
	}
	defer end()
	sent, deadline := letters(name, 20), time.Now().Add(4*time.Second).UnixMilli()
	for _, letter := range sent {
		if number(letter)%2 == 0 {
			letter.WithProperty("TIMER_DELAY_SEC", "3")
		} else {
			letter.WithProperty("TIMER_DELIVER_MS", fmt.Sprint(deadline))
		}
	}
	if err := sendAll(p, sent); err != nil {
		return err
	}
	if err := c.inbox.awaitJust(sent); err != nil {
		return err
	}
	return noneBefore(c.inbox.all(), func(m *primitive.MessageExt) int64 {
		const wheelMs = 1_000 // Java's wheel turns by the second, and what is due within one comes at its beginning
		if number(&m.Message)%2 == 0 {
			return m.BornTimestamp + 3_000 - wheelMs
		}
		return deadline - wheelMs
	})
}

// Asks for the shortest delay before the next try.
func later(ctx context.Context) consumer.ConsumeResult {
	if concurrently, there := primitive.GetConcurrentlyCtx(ctx); there {
		concurrently.DelayLevelWhenNextConsume = 1
	}
	return consumer.ConsumeRetryLater
}

func retries() error {
	name, p, c, end, err := pair(2, everything(), func(ctx context.Context, m *primitive.MessageExt) consumer.ConsumeResult {
		if m.ReconsumeTimes < 2 {
			return later(ctx)
		}
		return consumer.ConsumeSuccess
	})
	if err != nil {
		return err
	}
	defer end()
	sent := letters(name, 4)
	if err := sendAll(p, sent); err != nil {
		return err
	}
	if err := c.inbox.awaitJust(append(append(append([]*primitive.Message(nil), sent...), sent...), sent...)); err != nil {
		return err
	}
	tries := map[int32]int{}
	for _, m := range c.inbox.all() {
		tries[m.ReconsumeTimes]++
	}
	if tries[0] != 4 || tries[1] != 4 || tries[2] != 4 {
		return fmt.Errorf("deliveries by their number: %v", tries)
	}
	return nil
}

func deadLetters() error {
	name, p, c, end, err := pair(1, everything(), func(ctx context.Context, _ *primitive.MessageExt) consumer.ConsumeResult {
		return later(ctx)
	}, consumer.WithMaxReconsumeTimes(1))
	if err != nil {
		return err
	}
	defer end()
	sent := letters(name, 3)
	if err := sendAll(p, sent); err != nil {
		return err
	}
	if err := c.inbox.await(2*len(sent), patience); err != nil {
		return err
	}
	// A consumer does not start before its topic is there, which is when the first message is dead.
	var reader *push
	for begun := time.Now(); ; time.Sleep(500 * time.Millisecond) {
		if reader, err = startPush("%DLQ%"+c.group, everything(), nil); err == nil {
			break
		}
		if time.Since(begun) > patience {
			return err
		}
	}
	defer reader.Shutdown()
	if err := reader.inbox.awaitJust(sent); err != nil {
		return err
	}
	for _, m := range reader.inbox.all() {
		if m.GetProperty("RETRY_TOPIC") != name {
			return fmt.Errorf("RETRY_TOPIC is %q", m.GetProperty("RETRY_TOPIC"))
		}
	}
	return nil
}
