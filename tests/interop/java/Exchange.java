import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * Fills a store, and later says whether a server that opened it has everything: after a restart, or another server's store.
 *
 *     write NAME_SERVER FILE           sends messages, commits offsets, and notes both in FILE
 *     read NAME_SERVER FILE NAME       a line for each check, NAME before it
 */
final class Exchange {
    private static final int QUEUES = 4, LETTERS = 400, BATCHED = 60, COMMITTED = 10;
    private static final int PATIENCE_S = 60, CHECKED_WITHIN_S = 80;

    private static final int ONE_SECOND = 1, TEN_SECONDS = 3;   // delay levels

    private static final int TRANSACTIONS = 8;   // the second half is left open; of each, every other is committed

    private final String topic, group, delayed, payments, payers;
    private final Map<String, String> contentByPlace = new TreeMap<>();   // "queue id@queue offset" to content
    private final int[] ends = new int[QUEUES];

    private Exchange(String topic, String group, String delayed, String payments, String payers) {
        this.topic = topic;
        this.group = group;
        this.delayed = delayed;
        this.payments = payments;
        this.payers = payers;
    }

    public static void main(String[] arguments) throws Exception {
        Clients.nameServer = arguments[1];
        Path file = Path.of(arguments[2]);
        if (arguments[0].equals("write")) {
            write(file);
            Runtime.getRuntime().halt(0);
        }
        Exchange noted = noted(file);
        Report report = new Report(arguments[3]);
        report.check("every_message_stands_at_its_queue_offset", noted::readEverything);
        report.check("group_goes_on_where_it_had_committed", noted::goOn);
        report.check("message_is_found_by_its_key", noted::findByKey);
        report.check("tag_filter_works_on_old_messages", noted::filterByTag);
        report.check("new_messages_follow_the_old_ones", noted::append);
        report.check("delayed_messages_arrive_once", noted::readDelayed);
        report.check("open_transactions_are_checked_and_settled_ones_stay_so", noted::settleTransactions);
        report.runAndExit(1);
    }

    // ---- writing

    private static void write(Path file) throws Exception {
        Exchange exchange = new Exchange(Clients.topic(QUEUES), Clients.unused("exchange"), Clients.topic(1),
            Clients.topic(1), Clients.unused("payers"));
        List<String> lines = new ArrayList<>(List.of(exchange.topic, exchange.group, exchange.delayed, exchange.payments, exchange.payers));
        List<Message> letters = Clients.letters(exchange.topic, LETTERS);
        letters.get(5).setBody("compressible ".repeat(10_000).getBytes());
        List<String> contents = Clients.contents(letters);
        try (Clients.Producer producer = new Clients.Producer(); Clients.LitePull consumer = new Clients.LitePull(exchange.group)) {
            for (int n = 0; n < LETTERS - BATCHED; n++) {
                int queueId = n % QUEUES;
                SendResult result = producer.sendTo(queues -> queues.get(queueId), letters.get(n));
                lines.add(place(result.getMessageQueue().getQueueId(), result.getQueueOffset()) + "\t" + contents.get(n));
            }
            SendResult batch = producer.send(letters.subList(LETTERS - BATCHED, LETTERS));
            for (int n = 0; n < BATCHED; n++) {
                String place = place(batch.getMessageQueue().getQueueId(), batch.getQueueOffset() + n);
                lines.add(place + "\t" + contents.get(LETTERS - BATCHED + n));
            }
            List<MessageQueue> queues = consumer.assignAll(exchange.topic);
            Report.same(queues.size(), QUEUES, "queues");
            consumer.pollCount(LETTERS, PATIENCE_S);   // commits before the first pull do not reach the server
            consumer.commitSync(queues.stream().collect(Collectors.toMap(queue -> queue, queue -> (long) COMMITTED)), true);
        }
        Clients.awaitCommitted(exchange.group, exchange.topic, COMMITTED, QUEUES);
        writeDelayed(exchange.delayed);
        exchange.writeTransactions();
        Files.write(file, lines);
    }

    /** One is delivered now and one, most likely, by the server that opens the store later. */
    private static void writeDelayed(String topic) throws Exception {
        List<Message> letters = Clients.letters(topic, 2);
        try (Clients.Producer producer = new Clients.Producer(); Clients.LitePull consumer = new Clients.LitePull(Clients.unused("delayed"))) {
            letters.get(0).setDelayTimeLevel(ONE_SECOND);
            producer.send(letters.get(0));
            consumer.assignAll(topic);
            consumer.pollCount(1, PATIENCE_S);
            letters.get(1).setDelayTimeLevel(TEN_SECONDS);
            producer.send(letters.get(1));
        }
    }

    private static LocalTransactionState decision(Message message) {
        boolean even = Integer.parseInt(message.getUserProperty("number")) % 2 == 0;
        return even ? LocalTransactionState.COMMIT_MESSAGE : LocalTransactionState.ROLLBACK_MESSAGE;
    }

    private TransactionMQProducer payer() throws Exception {
        TransactionMQProducer producer = new TransactionMQProducer(payers);
        producer.setNamesrvAddr(Clients.nameServer);
        producer.setInstanceName(Clients.unused("client"));
        producer.setHeartbeatBrokerInterval(1_000);   // who is not known is not asked
        producer.setTransactionListener(new TransactionListener() {
            @Override public LocalTransactionState executeLocalTransaction(Message message, Object leftOpen) {
                return (boolean) leftOpen ? LocalTransactionState.UNKNOW : decision(message);
            }

            @Override public LocalTransactionState checkLocalTransaction(MessageExt message) {
                return decision(message);
            }
        });
        producer.start();
        producer.send(Clients.letters(Clients.topic(1), 1).get(0));   // heartbeats go to the brokers of routes that were used
        return producer;
    }

    private void writeTransactions() throws Exception {
        TransactionMQProducer producer = payer();
        List<Message> letters = Clients.letters(payments, TRANSACTIONS);
        for (int n = 0; n < TRANSACTIONS; n++) {
            producer.sendMessageInTransaction(letters.get(n), n >= TRANSACTIONS / 2);
        }
        try (Clients.LitePull consumer = new Clients.LitePull(Clients.unused("paid"))) {
            consumer.assignAll(payments);
            consumer.pollCount(TRANSACTIONS / 4, PATIENCE_S);   // decisions are sent one way
        }
        producer.shutdown();
    }

    private static String place(int queueId, long queueOffset) {
        return queueId + "@" + queueOffset;
    }

    private static Exchange noted(Path file) throws Exception {
        List<String> lines = Files.readAllLines(file);
        Exchange exchange = new Exchange(lines.get(0), lines.get(1), lines.get(2), lines.get(3), lines.get(4));
        for (String line : lines.subList(5, lines.size())) {
            String[] parts = line.split("\t", 2);
            exchange.contentByPlace.put(parts[0], parts[1]);
            exchange.ends[Integer.parseInt(parts[0].split("@")[0])]++;
        }
        Report.same(exchange.contentByPlace.size(), LETTERS, "noted messages");
        return exchange;
    }

    // ---- reading

    private void readEverything() throws Exception {
        try (Clients.LitePull consumer = new Clients.LitePull(Clients.unused("reading"))) {
            List<MessageQueue> queues = consumer.assignAll(topic);
            Report.same(queues.size(), QUEUES, "queues");
            List<MessageExt> polled = consumer.pollCount(LETTERS, PATIENCE_S);
            polled.addAll(consumer.poll(1000));
            List<String> found = new ArrayList<>(), wanted = new ArrayList<>();
            polled.forEach(m -> found.add(place(m.getQueueId(), m.getQueueOffset()) + "\t" + Clients.content(m)));
            contentByPlace.forEach((place, content) -> wanted.add(place + "\t" + content));
            Report.sameItems(found, wanted, "messages");
        }
    }

    private void goOn() throws Exception {
        try (Clients.LitePull consumer = new Clients.LitePull(group)) {
            for (MessageQueue queue : consumer.assignAll(topic)) {
                Report.same(consumer.committed(queue), (long) COMMITTED, "committed offset of queue " + queue.getQueueId());
            }
            List<MessageExt> polled = consumer.pollCount(LETTERS - QUEUES * COMMITTED, PATIENCE_S);
            for (MessageExt m : polled) {
                Report.holds(m.getQueueOffset() >= COMMITTED, "message " + m.getQueueOffset() + " comes again");
            }
        }
    }

    private void findByKey() throws Exception {
        String wanted = contentByPlace.values().stream().filter(content -> content.startsWith("17|")).findFirst().get();
        AtomicReference<Throwable> trouble = new AtomicReference<>();
        try (Clients.Producer producer = new Clients.Producer()) {
            for (int attempt = 0; attempt < 20; attempt++) {
                try {
                    long now = System.currentTimeMillis();
                    List<MessageExt> found = producer.queryMessage(topic, "order-17", 32, now - 3_600_000, now + 60_000).getMessageList();
                    Report.same(Clients.contents(found), List.of(wanted), "messages with the key");
                    return;
                } catch (org.apache.rocketmq.client.exception.MQClientException notYet) {
                    trouble.set(notYet);   // the client knows the broker only after its first route update
                    Thread.sleep(500);
                }
            }
        }
        throw new AssertionError(trouble.get());
    }

    private void filterByTag() throws Exception {
        try (Clients.Push consumer = Clients.Push.start(topic, "tag1", any -> {})) {
            List<String> wanted = contentByPlace.values().stream().filter(content -> content.contains("|tag1|")).collect(Collectors.toList());
            Report.sameItems(Clients.contents(consumer.inbox.awaitNoMoreThan(wanted.size(), PATIENCE_S)), wanted, "messages");
        }
    }

    private void readDelayed() throws Exception {
        try (Clients.LitePull consumer = new Clients.LitePull(Clients.unused("delayed"))) {
            consumer.assignAll(delayed);
            List<MessageExt> polled = consumer.pollCount(2, PATIENCE_S);
            polled.addAll(consumer.poll(3000));
            List<String> numbers = polled.stream().map(m -> m.getUserProperty("number")).collect(Collectors.toList());
            Report.sameItems(numbers, List.of("0", "1"), "numbers of delayed messages");
        }
    }

    private void settleTransactions() throws Exception {
        TransactionMQProducer producer = payer();
        try (Clients.LitePull consumer = new Clients.LitePull(Clients.unused("paid"))) {
            consumer.assignAll(payments);
            List<MessageExt> polled = consumer.pollCount(TRANSACTIONS / 2, CHECKED_WITHIN_S);
            polled.addAll(consumer.poll(3000));
            List<String> numbers = polled.stream().map(m -> m.getUserProperty("number")).collect(Collectors.toList());
            Report.sameItems(numbers, List.of("0", "2", "4", "6"), "numbers of committed messages");
        } finally {
            producer.shutdown();
        }
    }

    private void append() throws Exception {
        try (Clients.Producer producer = new Clients.Producer()) {
            for (Message letter : Clients.letters(topic, 2 * QUEUES)) {
                int queueId = Integer.parseInt(letter.getUserProperty("number")) % QUEUES;
                SendResult result = producer.sendTo(queues ->
                    queues.stream().filter(queue -> queue.getQueueId() == queueId).findFirst().get(), letter);
                Report.same(result.getSendStatus(), SendStatus.SEND_OK, "send status");
                Report.same(result.getQueueOffset(), (long) ends[queueId]++, "queue offset in queue " + queueId);
            }
        }
    }
}
