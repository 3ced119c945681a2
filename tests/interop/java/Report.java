import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.regex.Pattern;

/** Runs named checks side by side and prints a line for each: `ok NAME`, or `FAIL NAME: why`. */
final class Report {
    interface Check {
        void run() throws Exception;
    }

    private static final int LIMIT_S = 100;
    private final String client;
    private final Map<String, Check> checks = new LinkedHashMap<>();

    /** `client` stands before every name; only names that match the variable ONLY are run. */
    Report(String client) {
        this.client = client;
    }

    /** Adds a check; the slow ones are best added first. */
    void check(String name, Check check) {
        checks.put(name, check);
    }

    /** Runs the checks and ends the process; clients may leave threads that never end. */
    void runAndExit(int atOnce) throws Exception {
        Pattern only = Pattern.compile(System.getenv().getOrDefault("ONLY", ""));
        ExecutorService pool = Executors.newFixedThreadPool(atOnce);
        List<Future<Boolean>> outcomes = new ArrayList<>();
        checks.forEach((name, check) -> {
            if (only.matcher(name).find()) {
                outcomes.add(pool.submit(() -> passes(client + "/" + name, check)));
            }
        });
        boolean allPassed = true;
        for (Future<Boolean> outcome : outcomes) {
            allPassed &= outcome.get();
        }
        System.out.flush();
        Runtime.getRuntime().halt(allPassed ? 0 : 1);
    }

    private static boolean passes(String name, Check check) throws InterruptedException {
        ExecutorService own = Executors.newSingleThreadExecutor();
        try {
            own.submit(() -> {
                check.run();
                return null;
            }).get(LIMIT_S, TimeUnit.SECONDS);
            System.out.println("ok " + name);
            return true;
        } catch (TimeoutException slow) {
            System.out.println("FAIL " + name + ": not done within " + LIMIT_S + " s");
        } catch (ExecutionException failed) {
            String why = failed.getCause().toString().replaceAll("\\s+", " ");
            System.out.println("FAIL " + name + ": " + why.substring(0, Math.min(why.length(), 500)));
        } finally {
            own.shutdownNow();
        }
        return false;
    }

    // ---- what checks say often

    static void same(Object actual, Object expected, String what) {
        if (!expected.equals(actual)) {
            throw new AssertionError(what + " should be " + expected + " but is " + actual);
        }
    }

    /** Like {@link #same}, for long lists: names the first few that are missing and the first few that are too many. */
    static <T> void sameItems(List<T> actual, List<T> expected, String what) {
        List<T> missing = new ArrayList<>(expected), extra = new ArrayList<>();
        Map<T, Integer> left = new LinkedHashMap<>();
        expected.forEach(item -> left.merge(item, 1, Integer::sum));
        for (T item : actual) {
            if (left.merge(item, -1, Integer::sum) >= 0) {
                missing.remove(item);
            } else {
                extra.add(item);
            }
        }
        if (!missing.isEmpty() || !extra.isEmpty()) {
            throw new AssertionError(what + ": " + missing.size() + " missing " + few(missing) + ", " + extra.size() + " too many " + few(extra));
        }
    }

    private static <T> List<T> few(List<T> items) {
        return items.subList(0, Math.min(3, items.size()));
    }

    static void holds(boolean condition, String otherwise) {
        if (!condition) {
            throw new AssertionError(otherwise);
        }
    }
}
