import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.apache.rocketmq.filter.FilterFactory;
import org.apache.rocketmq.filter.expression.EvaluationContext;
import org.apache.rocketmq.filter.expression.Expression;

/**
 * What Java makes of SQL92 conditions: corners of the language, then conditions made by chance.
 *
 * Arguments: a seed, and how many conditions to make. A line for each condition and set of properties, tab separated:
 * result, condition, and `name=value` of each property. The result is true, false, null, error (evaluation failed) or
 * refused (it does not compile; once, without properties). Tab, line feed, carriage return, form feed and backslash
 * are written \t \n \r \f \\.
 */
public final class FilterCases {
    private static final String[] NAMES = {"a", "b", "c", "d", "TAGS"};
    private static final String[] VALUES = {
        "1", "2", "5", "05", "+5", "-3", " 7 ", "3.5", "1e3", "1.", ".5", "abc", "ABC", "abcabc", "true", "TRUE", "false",
        "2147483647", "2147483648", "-2147483649", "9223372036854775807", "9223372036854775808", "NaN", "Infinity", "0x1p4",
        "1f", "10L", "it's", "é", "日本", "x y", "-0", "0", "0.0", "1_000", "4.9E-324", "1e400"};
    private static final String[] NUMBERS = {
        "0", "1", "2", "5", "7L", "10", "3.5", "1e3", "5.", ".5", "2147483647", "2147483648", "9223372036854775807", "1.5E10", "16",
        "1000", "0.5", "4.9E-324", "1.7976931348623157E308"};
    private static final String[] TEXTS = {"'1'", "'5'", "'abc'", "'a'", "'ABC'", "''", "'it''s'", "'true'", "'é'", "'x y'", "'3.5'"};

    private static final String[] CORNERS = {
        "a", "NOT a", "a = TRUE", "TRUE = a", "a = FALSE", "TRUE", "FALSE", "NULL", "NOT NULL", "'a'", "1", "-a", "-1", "a = -1",
        "a = 5", "5 = a", "a = 5.0", "a = '5'", "'5' = 5", "5 = '5'", "'x' = 5", "5 = TRUE", "TRUE = 5", "TRUE = FALSE", "NULL = a",
        "a = NULL", "a <> NULL", "a = b", "a <> b", "a > b", "a >= b", "a < 5", "5 < a", "a > '5'", "'5' < a", "a > TRUE", "a > NULL",
        "(a = 1) = TRUE", "(a = 1) = 5", "(a = 1) = b", "b = (a = 1)", "(a = 1) > 2", "a = 1 = TRUE", "a > 1 > 2", "a = b = c",
        "NOT a = 5", "NOT (a = 5)", "NOT NOT a", "a IS NULL", "a IS NOT NULL", "NULL IS NULL", "5 IS NULL", "(a = 1) IS NULL",
        "a IS NULL IS NULL", "a IS NULL = TRUE", "a BETWEEN 1 AND 5", "a NOT BETWEEN 1 AND 5", "a BETWEEN 5 AND 1", "a NOT BETWEEN 5 AND 1",
        "a BETWEEN 5 AND -1", "a BETWEEN -1 AND 5", "a BETWEEN b AND c", "a NOT BETWEEN b AND c", "a BETWEEN '1' AND '5'",
        "a BETWEEN 1 AND 5.5", "a BETWEEN NULL AND 5", "5 BETWEEN a AND b", "a BETWEEN 1 AND 5 AND b = 1", "-a BETWEEN 1 AND 2",
        "a IN ('5', 'abc')", "a NOT IN ('5', 'abc')", "a IN ('1','2','3','4','5','6')", "a IN ()", "a IN (5)", "5 IN ('5')", "+a IN ('5')",
        "(a) IN ('5')", "(a = 1) IN ('5')", "a IN ('5'", "a IN ('5',)", "a CONTAINS 'b'", "a NOT CONTAINS 'b'", "a STARTSWITH 'a'",
        "a NOT STARTSWITH 'a'", "a ENDSWITH 'c'", "a NOT ENDSWITH 'c'", "a CONTAINS ''", "a NOT CONTAINS ''", "5 CONTAINS '5'",
        "'abc' CONTAINS 'b'", "(a > 1) CONTAINS 'b'", "a CONTAINS b", "a CONTAINS 5", "a CONTAINS 'b' CONTAINS 'c'", "a NOT 5", "a NOT",
        "a = 1 OR b = 1", "a = 1 AND b = 1", "a = 1 OR b = 1 AND c = 1", "(a = 1 OR b = 1) AND c = 1", "a OR b", "a AND TRUE", "NULL AND FALSE",
        "NULL OR TRUE", "a > 1 OR TRUE", "TRUE OR a > 1", "FALSE AND a > 1", "a AND 5", "'x' OR TRUE", "a = 0.0", "a = 0", "a = -0.5", "- - 5 = a",
        "--5 = a", "--5\n a = 5", "a = +5", "a = + + 5", "a = - - 5", "a = -'x'", "-'x' > a", "-(a = 1) = 5", "-TRUE = a", "a = 1.0e400",
        "a = 1e-400", "a = 9223372036854775808", "a = -9223372036854775808", "a = 9223372036854775807", "a = -9223372036854775807",
        "a = 007", "a = 5L", "a = 5l", "a = 0L", "a = 5.e0", "a=5", "a<>5", "a>=5", "a<=5", "a=>5", "a == 5", "a != 5", "a = \"5\"", "a LIKE 'a%'",
        "a = 5 garbage", "a = 5)", "(a = 5", "()", "", " ", "a = 'it''s'", "a = 'it's'", "a = 'x", "a = 5 -- comment", "a = 5 -- comment\n",
        "a = 5 /* comment */", "a = 5 /* comment", "/* comment */ a = 5", "/***/ a = 5", "a /* ** / **/ = 5", "a\t=\n5\r\f", "a\u000B= 5",
        "a = 5 AND", "AND a", "a AND OR b", "a IS", "a IS 5", "a IS NOT 5", "is = 5", "In = 5", "$a_1 = 5", "_ = 5", "aNd", "a aNd b", "NOT",
        "a BETWEEN 1", "a BETWEEN 1 OR 5", "a + 1 = 2", "a = 1 + 1", "a * 2 = 4", "a.b = 5", "a[0] = 5", "é = 5", "a = 'é'", "a = '日本'",
        "TAGS = 'abc'", "tags = 'abc'", "A = 5", "a = 'true'", "a = true", "a = null", "a is not null", "a IS NOT NULL = TRUE",
        "a >= 5 AND a <= 5", "a > b AND b > c", "a > 3.5", "3.5 > a", "a > 2147483648", "2147483648 > a", "a = 2147483648", "1 = 1.0", "1 = 1L",
        "1 < 2", "1.5 > 1", "2 <> 2.0", "a = 5e0", "a = 5E", "a = .5", "a = 5.", "a = .", "a = 1..5", "a = 'a' = 'b'", "a = (b)", "((a)) = ((5))",
        "(a) = 5 AND (b)", "NOT (a AND b)", "NOT a AND b", "NOT a IS NULL", "NOT (a IS NULL)", "a IS NULL OR a > 3", "a IS NOT NULL AND a > 3"};

    private final Random random;

    private FilterCases(long seed) {
        random = new Random(seed);
    }

    public static void main(String[] arguments) {
        FilterCases cases = new FilterCases(Long.parseLong(arguments[0]));
        StringBuilder out = new StringBuilder();
        for (String corner : CORNERS) {
            cases.write(corner, corners(), out);
        }
        int count = Integer.parseInt(arguments[1]);
        for (int n = 0; n < count; n++) {
            List<Map<String, String>> sets = new ArrayList<>();
            for (int set = 0; set < 4; set++) {
                sets.add(cases.properties());
            }
            cases.write(cases.maybeSpoilt(cases.or(3)), sets, out);
        }
        new PrintStream(System.out, true, StandardCharsets.UTF_8).print(out);
    }

    private static List<Map<String, String>> corners() {
        return List.of(Map.of(), Map.of("a", "5"), sorted("a", "abc", "b", "1"), sorted("a", "true", "b", "true", "c", "x"), sorted("a", "3.5", "b", "5", "c", "9"));
    }

    private static Map<String, String> sorted(String... pairs) {
        Map<String, String> map = new LinkedHashMap<>();
        for (int n = 0; n < pairs.length; n += 2) {
            map.put(pairs[n], pairs[n + 1]);
        }
        return map;
    }

    private void write(String condition, List<Map<String, String>> sets, StringBuilder out) {
        Expression compiled;
        try {
            compiled = FilterFactory.INSTANCE.get("SQL92").compile(condition);
        } catch (Throwable refused) {
            out.append("refused\t").append(escaped(condition)).append('\n');
            return;
        }
        for (Map<String, String> set : sets) {
            String result;
            try {
                result = String.valueOf(compiled.evaluate(new EvaluationContext() {
                    @Override
                    public Object get(String name) {
                        return set.get(name);
                    }

                    @Override
                    public Map<String, Object> keyValues() {
                        return Collections.emptyMap();
                    }
                }));
            } catch (Throwable failed) {
                result = "error";
            }
            out.append(result).append('\t').append(escaped(condition));
            set.forEach((name, value) -> out.append('\t').append(name).append('=').append(escaped(value)));
            out.append('\n');
        }
    }

    private static String escaped(String text) {
        return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r").replace("\f", "\\f");
    }

    private Map<String, String> properties() {
        Map<String, String> set = new LinkedHashMap<>();
        for (String name : NAMES) {
            if (random.nextInt(4) > 0) {
                set.put(name, pick(VALUES));
            }
        }
        return set;
    }

    private String pick(String... from) {
        return from[random.nextInt(from.length)];
    }

    private String or(int depth) {
        return repeated(depth, " OR ", this::and);
    }

    private String and(int depth) {
        return repeated(depth, " AND ", this::condition);
    }

    /** Mostly what people write, sometimes anything that the grammar allows. */
    private String condition(int depth) {
        String name = pick(NAMES);
        String not = pick("", "", "NOT ");
        switch (random.nextInt(12)) {
            case 0: case 1: return name + pick(" = ", " <> ") + pick(pick(NUMBERS), pick(TEXTS), pick(NAMES), "TRUE", "-" + pick(NUMBERS));
            case 2: return name + pick(" > ", " >= ", " < ", " <= ") + pick(pick(NUMBERS), pick(NAMES), "-" + pick(NUMBERS));
            case 3: return pick(NUMBERS) + pick(" > ", " <= ", " = ") + name;
            case 4: return name + pick(" IS NULL", " IS NOT NULL");
            case 5: return name + " " + not + "BETWEEN " + pick("-5", "0", "1", "2", ".5", name) + " AND " + pick("3", "5L", "7.5", "1e3", pick(NAMES));
            case 6: return name + " " + not + "IN (" + list() + ")";
            case 7: return name + " " + not + pick("CONTAINS ", "STARTSWITH ", "ENDSWITH ") + pick(TEXTS);
            case 8: return depth > 0 ? not + "(" + or(depth - 1) + ")" : name;
            default: return equality(depth);
        }
    }

    private interface Part {
        String make(int depth);
    }

    private String repeated(int depth, String link, Part part) {
        StringBuilder text = new StringBuilder(part.make(depth));
        while (random.nextInt(4) == 0) {
            text.append(link).append(part.make(depth));
        }
        return text.toString();
    }

    private String equality(int depth) {
        String left = comparison(depth);
        switch (random.nextInt(6)) {
            case 0: return left + " = " + comparison(depth);
            case 1: return left + " <> " + comparison(depth);
            case 2: return left + pick(" IS NULL", " IS NOT NULL", " is null");
            default: return left;
        }
    }

    private String comparison(int depth) {
        String left = unary(depth);
        String not = pick("", "", "NOT ");
        switch (random.nextInt(9)) {
            case 0: case 1: return left + pick(" > ", " >= ", " < ", " <= ", ">", "<=") + unary(depth);
            case 2: return left + " " + not + "BETWEEN " + bound(depth) + " AND " + bound(depth);
            case 3: return left + " " + not + "IN (" + list() + ")";
            case 4: return left + " " + not + pick("CONTAINS ", "STARTSWITH ", "ENDSWITH ", "contains ") + pick(TEXTS);
            case 5: return left + pick(" = ", " <> ") + pick(pick(NUMBERS), pick(TEXTS));
            default: return left;
        }
    }

    private String bound(int depth) {
        return random.nextInt(3) > 0 ? pick(NUMBERS) : unary(depth);
    }

    private String list() {
        StringBuilder list = new StringBuilder(pick(TEXTS));
        while (random.nextInt(3) > 0) {
            list.append(", ").append(pick(TEXTS));
        }
        return list.toString();
    }

    private String unary(int depth) {
        switch (random.nextInt(12)) {
            case 0: return "-" + unary(depth);
            case 1: return "+" + unary(depth);
            case 2: return "NOT " + unary(depth);
            case 3: return depth > 0 ? "(" + or(depth - 1) + ")" : pick(NAMES);
            case 4: return depth > 0 ? "(" + or(depth - 1) + ")" : pick(NUMBERS);
            case 5: case 6: return pick(NUMBERS);
            case 7: return pick(TEXTS);
            case 8: return pick("TRUE", "FALSE", "NULL", "true");
            default: return pick(NAMES);
        }
    }

    /** One in eight loses, gains or swaps some characters. */
    private String maybeSpoilt(String condition) {
        if (random.nextInt(8) > 0 || condition.isEmpty()) {
            return condition;
        }
        StringBuilder spoilt = new StringBuilder(condition);
        for (int n = random.nextInt(3); n >= 0 && spoilt.length() > 0; n--) {
            int at = random.nextInt(spoilt.length());
            switch (random.nextInt(3)) {
                case 0: spoilt.deleteCharAt(at); break;
                case 1: spoilt.insert(at, pick("(", ")", "'", "=", "NOT ", " AND ", "-", ".", "5", "--", "/*", "é", "\n", "!", ",")); break;
                default: spoilt.setCharAt(at, "()'=<>-.5 aNe,".charAt(random.nextInt(14)));
            }
        }
        return spoilt.toString();
    }
}
