<?php
// The articles of a WordPress site, made by cron: `* * * * * php wordpress_cron.php topics.txt`
//
// Each line of the file is a topic. A run starts a job for each new one, looks at the jobs every three seconds, and
// writes a post for each article. It ends when all are done, or before cron starts the next run, which goes on where
// this one stopped. Whatever is cut, or killed, there is one post for each topic:
//   1. A topic's idempotency key is stored before its job is asked for. Asked again, the server gives the same job.
//   2. Looking at a job starts nothing. Most looks are answered with 304: nothing has changed, by the ETag.
//   3. A post has the job's name, so writing it again replaces it.
//
// It needs no library. In a plugin get_option and update_option keep the jobs, wp_remote_request asks (it waits for
// five seconds unless told otherwise), and wp_insert_post writes with the job's name as the guid.

declare(strict_types=1);

$server = getenv('TOKENTAPE_URL') ?: 'http://127.0.0.1:8000';
$folder = getenv('CONTENT_FORGE_POSTS') ?: 'posts';
$pause = (float) (getenv('CONTENT_FORGE_PAUSE') ?: 3); // seconds between two looks at the jobs
const RUN_SECONDS = 55;
const STARTS = 3; // how often a job is started that failed and may succeed the next time

exit(run($server, $folder, $pause, $argv[1] ?? 'topics.txt'));

function run(string $server, string $folder, float $pause, string $file): int
{
    $topics = @file($file, FILE_IGNORE_NEW_LINES | FILE_SKIP_EMPTY_LINES);
    if ($topics === false) {
        fwrite(STDERR, "$file cannot be read. It holds a topic on each line.\n");
        return 2;
    }
    @mkdir($folder, 0777, true);
    $lock = fopen("$folder/.lock", 'c');
    if (!flock($lock, LOCK_EX | LOCK_NB)) {
        return 0; // the run before this one is still at it
    }
    $jobs = is_file("$folder/.jobs.json") ? json_decode(file_get_contents("$folder/.jobs.json"), true) : [];
    foreach (array_unique(array_map('trim', $topics)) as $topic) {
        $jobs[$topic] ??= ['key' => bin2hex(random_bytes(16)), 'starts' => 1];
    }
    store("$folder/.jobs.json", $jobs);
    $end = microtime(true) + RUN_SECONDS;
    while (true) {
        foreach ($jobs as $topic => $job) {
            if (!isset($job['post']) && !isset($job['error']) && ($job['after'] ?? 0) <= time()) {
                $jobs[$topic] = step($server, $folder, (string) $topic, $job);
                store("$folder/.jobs.json", $jobs);
            }
        }
        $open = array_filter($jobs, fn ($job) => !isset($job['post']) && !isset($job['error']));
        if (!$open || microtime(true) + $pause > $end) {
            return $open ? 3 : 0;
        }
        usleep((int) ($pause * 1e6));
    }
}

// One request about a job. Returns the job as it is to be stored.
function step(string $server, string $folder, string $topic, array $job): array
{
    if (!isset($job['id'])) {
        $body = ['workflow' => 'content_forge', 'input' => ['topic' => $topic]];
        $key = ["Idempotency-Key: {$job['key']}"];
        [$status, $told, , $wait] = request('POST', "$server/v1/generations", $key, $body);
        if ($status === 202) {
            $job['id'] = $told['id'];
        } elseif ($status >= 400 && $status < 500 && $status !== 429) {
            $job['error'] = $told['detail'] ?? "status $status";
            fwrite(STDERR, "$topic: {$job['error']}\n");
        } else { // the server is away or busy: the same request again, with the same key
            $job['after'] = time() + $wait;
        }
        return $job;
    }
    $known = isset($job['etag']) ? ["If-None-Match: {$job['etag']}"] : [];
    [$status, $told, $etag, $wait] = request('GET', "$server/v1/generations/{$job['id']}", $known);
    if ($status === 200 && in_array($told['status'], ['queued', 'running', 'waiting'], true)) {
        $job['etag'] = $etag;
        $progress = $told['progress'] ?? null;
        echo "$topic: {$told['status']}", $progress ? " {$progress['done']}/{$progress['total']}" : '', "\n";
    } elseif ($status === 200 && $told['status'] === 'completed') {
        $job['post'] = write_post($folder, $job['id'], $told['result']);
        echo "$topic: {$job['post']}\n";
    } elseif ($status === 200 && $told['retryable'] && $job['starts'] < STARTS) {
        $job = ['key' => bin2hex(random_bytes(16)), 'starts' => $job['starts'] + 1]; // another job
    } elseif ($status === 200) {
        $job['error'] = $told['error']['message'] ?? $told['reason'] ?? $told['status'];
        fwrite(STDERR, "$topic: {$job['error']}\n");
    } elseif ($status === 404 || $status === 410) {
        $job['error'] = $told['detail'] ?? 'The job is gone.';
        fwrite(STDERR, "$topic: {$job['error']}\n");
    } elseif ($status === 429 || $status === 503) {
        $job['after'] = time() + $wait;
    }
    return $job;
}

// [status, JSON, ETag, seconds to wait]; status 0 where the server is away, or the answer was cut: half an answer is no JSON.
function request(string $method, string $url, array $headers, ?array $body = null): array
{
    $headers[] = 'Accept: application/json';
    if (getenv('TOKENTAPE_KEY')) {
        $headers[] = 'Authorization: Bearer ' . getenv('TOKENTAPE_KEY');
    }
    $http = ['method' => $method, 'ignore_errors' => true, 'follow_location' => 0, 'timeout' => 20];
    if ($body !== null) {
        $headers[] = 'Content-Type: application/json';
        $http['content'] = json_encode($body, JSON_THROW_ON_ERROR | JSON_UNESCAPED_UNICODE);
    }
    $stream = @fopen($url, 'r', false, stream_context_create(['http' => $http + ['header' => $headers]]));
    if ($stream === false) {
        return [0, [], null, 0];
    }
    $text = @stream_get_contents($stream);
    $lines = stream_get_meta_data($stream)['wrapper_data'] ?? [];
    fclose($stream);
    $status = preg_match('/^HTTP\/\S+ (\d{3})/', $lines[0] ?? '', $found) ? (int) $found[1] : 0;
    $etag = null;
    $wait = 0;
    foreach ($lines as $line) {
        if (stripos($line, 'etag:') === 0) {
            $etag = trim(substr($line, 5));
        } elseif (stripos($line, 'retry-after:') === 0) {
            $wait = (int) trim(substr($line, 12));
        }
    }
    if ($status === 304) {
        return [304, [], $etag, 0];
    }
    $told = json_decode((string) $text, true);
    return is_array($told) ? [$status, $told, $etag, $wait] : [0, [], null, 0];
}

function write_post(string $folder, string $id, array $article): string
{
    $html = '<h1>' . htmlspecialchars($article['title']) . "</h1>\n";
    foreach ($article['sections'] as $section) {
        $html .= '<h2>' . htmlspecialchars($section['heading']) . "</h2>\n";
        foreach (preg_split('/\n{2,}/', $section['text']) as $paragraph) {
            $html .= '<p>' . nl2br(htmlspecialchars($paragraph)) . "</p>\n";
        }
    }
    replace("$folder/$id.html", $html);
    return "$id.html";
}

function store(string $file, array $jobs): void
{
    replace($file, json_encode($jobs, JSON_PRETTY_PRINT | JSON_UNESCAPED_UNICODE | JSON_THROW_ON_ERROR));
}

// Whole or not at all, whenever this program is killed.
function replace(string $file, string $text): void
{
    file_put_contents("$file.part", $text);
    rename("$file.part", $file);
}
