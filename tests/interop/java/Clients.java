import java.io.File;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.List;
import java.util.Set;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** Clients that end with their check, and the messages they carry; only API that 4.9 and 5.x share. */
final class Clients {
    static String nameServer;

    private Clients() {}

    interface Setting<C> {
        void apply(C client) throws Exception;
    }

    private static final int SYSTEM_BUSY = 2;

    static boolean isBusy(Throwable failure) {
        return failure instanceof MQBrokerException refused && refused.getResponseCode() == SYSTEM_BUSY;
    }

    static final class Producer extends DefaultMQProducer implements AutoCloseable {
        Producer(Setting<DefaultMQProducer> setting) throws Exception {
            super(unused("producers"));
            setNamesrvAddr(nameServer);
            setInstanceName(unused("client"));
            setSendMsgTimeout(15_000);
            addRetryResponseCode(SYSTEM_BUSY);   // a server may ask for patience; only 5.x clients have some by themselves
            setting.apply(this);
            start();
        }

        Producer() throws Exception {
            this(producer -> {});
        }

        /** Sends to the queue that `choice` names; unlike other sends, the client does not repeat these for a busy server. */
        SendResult sendTo(Function<List<MessageQueue>, MessageQueue> choice, Message message) throws Exception {
            for (int attempt = 0; ; attempt++) {
                try {
                    return send(message, (queues, m, nothing) -> choice.apply(queues), null);
                } catch (MQBrokerException refused) {
                    if (!isBusy(refused) || attempt == 20) {
                        throw refused;
                    }
                    Thread.sleep(200);
                }
            }
        }

        @Override public void close() {
            shutdown();
        }
    }

    /** A push consumer that keeps what it is given. From the first offset, in a group of its own, unless told otherwise. */
    static final class Push implements AutoCloseable {
        final Inbox inbox = new Inbox();
        private final DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(unused("consumers"));
        private final String topic;

        private Push(String topic, String tags) throws Exception {
            this.topic = topic;
            consumer.setNamesrvAddr(nameServer);
            consumer.setInstanceName(unused("client"));
            consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
            consumer.setHeartbeatBrokerInterval(2_000);
            consumer.setPollNameServerInterval(2_000);
            consumer.setConsumeThreadMin(3);
            consumer.setConsumeThreadMax(3);
            consumer.setAwaitTerminationMillisWhenShutdown(10_000);
            consumer.subscribe(topic, tags);
        }

        static Push start(String topic, String tags, Setting<DefaultMQPushConsumer> setting) throws Exception {
            return start(topic, tags, setting, (messages, context) -> ConsumeConcurrentlyStatus.CONSUME_SUCCESS);
        }

        static Push start(String topic, String tags, Setting<DefaultMQPushConsumer> setting, MessageListenerConcurrently listener)
            throws Exception {
            Push push = new Push(topic, tags);
            push.consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
                push.inbox.add(messages);
                return listener.consumeMessage(messages, context);
            });
            setting.apply(push.consumer);
            push.consumer.start();
            return push;
        }

        static Push start(String topic) throws Exception {
            return start(topic, "*", consumer -> {});
        }

        static Push startOrderly(String topic, MessageListenerOrderly listener) throws Exception {
            Push push = new Push(topic, "*");
            push.consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
                ConsumeOrderlyStatus status = listener.consumeMessage(messages, context);
                push.inbox.add(messages);
                return status;
            });
            push.consumer.start();
            return push;
        }

        /** The queues this consumer consumes now. */
        Set<MessageQueue> queues() {
            return consumer.getDefaultMQPushConsumerImpl().getRebalanceImpl().getProcessQueueTable().keySet().stream()
                .filter(queue -> queue.getTopic().equals(topic)).collect(Collectors.toSet());
        }

        @Override public void close() {
            consumer.shutdown();
        }
    }

    static final class LitePull extends DefaultLitePullConsumer implements AutoCloseable {
        LitePull(String group, Setting<DefaultLitePullConsumer> setting) throws Exception {
            super(group);
            setNamesrvAddr(nameServer);
            setInstanceName(unused("client"));
            setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
            setHeartbeatBrokerInterval(2_000);
            setAutoCommit(false);
            setting.apply(this);
            start();
        }

        LitePull(String group) throws Exception {
            this(group, consumer -> {});
        }

        List<MessageQueue> assignAll(String topic) throws Exception {
            List<MessageQueue> queues = new ArrayList<>(fetchMessageQueues(topic));
            assign(queues);
            return queues;
        }

        List<MessageExt> pollCount(int count, int seconds) {
            List<MessageExt> polled = new ArrayList<>();
            long deadline = System.nanoTime() + seconds * 1_000_000_000L;
            while (polled.size() < count && System.nanoTime() < deadline) {
                polled.addAll(poll(300));
            }
            Report.holds(polled.size() >= count, polled.size() + " of " + count + " messages polled within " + seconds + " s");
            return polled;
        }

        @Override public void close() {
            shutdown();
        }
    }

    // ---- names, topics, messages

    static String unused(String prefix) {
        return prefix + "-" + Long.toString(ThreadLocalRandom.current().nextLong(1L << 52), 36);
    }

    static String topic(int queues) throws Exception {
        String name = unused("interop");
        admin("topic", name, String.valueOf(queues));
        return name;
    }

    /** A topic whose producers keep to the first queue of each broker, of the four there are. */
    static String topicInOrder() throws Exception {
        String name = topic(4);
        admin("order", name, "1");
        return name;
    }

    /** A topic that keeps the latest message of each key. */
    static String compactedTopic(int queues) throws Exception {
        String name = unused("interop-compacted");
        admin("topic", name, String.valueOf(queues), "+cleanup.policy=COMPACTION");
        return name;
    }

    /** Waits until the server knows the commit: clients send it without waiting for an answer. */
    static void awaitCommitted(String group, String topic, long offset, int queuesPerBroker) throws Exception {
        admin("await-committed", group, topic, String.valueOf(offset), String.valueOf(queuesPerBroker));
    }

    private static void admin(String... arguments) throws Exception {
        List<String> command = new ArrayList<>(List.of("python3", System.getProperty("admin"), nameServer));
        command.addAll(Arrays.asList(arguments));
        File said = File.createTempFile("admin", ".log");
        Process process = new ProcessBuilder(command).redirectErrorStream(true).redirectOutput(said).start();
        Report.holds(process.waitFor(90, TimeUnit.SECONDS) && process.exitValue() == 0,
            String.join(" ", arguments) + ": " + java.nio.file.Files.readString(said.toPath()).trim());
    }

    /** Messages with everything a producer can set, each different. */
    static List<Message> letters(String topic, int count, String... tags) {
        List<Message> letters = new ArrayList<>();
        for (int n = 0; n < count; n++) {
            byte[] body = new byte[ThreadLocalRandom.current().nextInt(1, 1500)];
            ThreadLocalRandom.current().nextBytes(body);
            Message letter = new Message(topic, tags.length == 0 ? "tag" + n % 3 : tags[n % tags.length], "order-" + n + " größe-" + n % 7, body);
            letter.putUserProperty("number", String.valueOf(n));
            letter.putUserProperty("stadt", "Zürich " + n % 5);
            letters.add(letter);
        }
        return letters;
    }

    /** All that must arrive of a message, in a form that compares. */
    static String content(Message m) {
        return m.getUserProperty("number") + "|" + m.getTags() + "|" + m.getKeys() + "|" + m.getUserProperty("stadt") + "|"
            + m.getBody().length + "|" + Integer.toHexString(Arrays.hashCode(m.getBody()));
    }

    static List<String> contents(Collection<? extends Message> messages) {
        return messages.stream().map(Clients::content).collect(Collectors.toList());
    }

    static void sameContents(Collection<? extends Message> arrived, Collection<? extends Message> sent) {
        Report.sameItems(contents(arrived), contents(sent), "messages");
    }
}
