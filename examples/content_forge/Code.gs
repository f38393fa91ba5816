/**
 * Articles for a Google Sheet: a script that is bound to the sheet, deployed as a web app ("Execute as: me", access:
 * anyone). Each job becomes one row of the sheet "Articles".
 *
 * Script properties: SERVER, such as https://tape.example.org; KEY, a key of it with the scopes read and write, if it
 * wants one; HOOK, the web app's own address with ?token=…; TOKEN, the same random text.
 * Triggers: lookAtJobs, every minute. It finds what no webhook told.
 *
 * 1. A web app is given no headers, so it cannot check a webhook's signature. What comes is a hint alone: whether there
 *    is such a job, and its article, it asks the server.
 * 2. What ContentService answers reaches the caller by a redirect (302), which webhooks do not follow: the same one would
 *    come again for 17 hours. HtmlService answers with 200 itself.
 * 3. The sheet says what is done already: a job that was told twice, or found by lookAtJobs meanwhile, has one row.
 */

/** From the sheet's menu, or for each new line of a form: asks for an article. */
function startArticle(topic) {
  var key = Utilities.getUuid();
  PropertiesService.getScriptProperties().setProperty('start:' + key, topic); // before the server knows of it
  attempt(function () { start(key); });
}

/** Starts a job, once: the same request with the same key gets the same job, also when an answer was lost. */
function start(key) {
  var properties = PropertiesService.getScriptProperties();
  var topic = properties.getProperty('start:' + key);
  var job = ask('post', '/v1/generations', { 'Idempotency-Key': key }, {
    workflow: 'content_forge',
    input: { topic: topic },
    webhook: property('HOOK') || undefined,
  });
  properties.setProperty('job:' + job.id, topic);
  properties.deleteProperty('start:' + key);
}

/** The webhook. */
function doPost(e) {
  if (e.parameter.token !== property('TOKEN')) return HtmlService.createHtmlOutput('no');
  var told = JSON.parse(e.postData.contents);
  attempt(function () { takeArticle(told.data.generation); });
  return HtmlService.createHtmlOutput('ok');
}

/** The rows as JSON, for a site that shows them. Browsers follow the redirect. */
function doGet() {
  var rows = sheet().getDataRange().getValues();
  var articles = rows.map(function (row) { return { job: row[0], title: row[1], text: row[2] }; });
  return ContentService.createTextOutput(JSON.stringify(articles)).setMimeType(ContentService.MimeType.JSON);
}

/** Every minute: what was not started yet, and the jobs of which no end was told. */
function lookAtJobs() {
  Object.keys(PropertiesService.getScriptProperties().getProperties()).forEach(function (name) {
    if (name.indexOf('start:') === 0) attempt(function () { start(name.slice(6)); });
    if (name.indexOf('job:') === 0) attempt(function () { takeArticle(name.slice(4)); });
  });
}

/** What fails because the server is away is done again by lookAtJobs. */
function attempt(todo) {
  try {
    todo();
  } catch (error) {
    console.warn(String(error));
  }
}

/** One row for a job that has ended, however often it is asked to. */
function takeArticle(id) {
  var properties = PropertiesService.getScriptProperties();
  if (properties.getProperty('job:' + id) === null) return; // not one of ours, or done
  var job = ask('get', '/v1/generations/' + encodeURIComponent(id), {});
  if (['queued', 'running', 'waiting'].indexOf(job.status) >= 0) return;
  var lock = LockService.getScriptLock(); // the webhook and lookAtJobs may come at the same moment
  lock.waitLock(20000);
  try {
    var known = sheet().getDataRange().getValues().some(function (row) { return row[0] === id; });
    if (!known && job.status === 'completed') {
      var text = job.result.sections.map(function (part) { return part.heading + '\n' + part.text; }).join('\n\n');
      sheet().appendRow([id, cell(job.result.title), cell(text)]);
      SpreadsheetApp.flush(); // before the job is forgotten
    } else if (!known) {
      console.warn(id + ' ended as ' + job.status);
    }
    properties.deleteProperty('job:' + id);
  } finally {
    lock.releaseLock();
  }
}

/** Text for a cell: what begins as a formula must not become one. A cell holds 50,000 characters. */
function cell(text) {
  return (/^[=+\-@\t\r']/.test(text) ? "'" + text : text).slice(0, 50000);
}

/** JSON of the server. Throws where it is away, and for every refusal. */
function ask(method, path, headers, body) {
  var key = property('KEY');
  if (key) headers.Authorization = 'Bearer ' + key;
  var options = { method: method, headers: headers, muteHttpExceptions: true, followRedirects: false };
  if (body) {
    options.contentType = 'application/json';
    options.payload = JSON.stringify(body);
  }
  var answer = UrlFetchApp.fetch(property('SERVER') + path, options);
  if (answer.getResponseCode() >= 300) throw new Error(answer.getResponseCode() + ' ' + answer.getContentText());
  return JSON.parse(answer.getContentText());
}

function property(name) {
  return PropertiesService.getScriptProperties().getProperty(name);
}

function sheet() {
  var book = SpreadsheetApp.getActiveSpreadsheet();
  return book.getSheetByName('Articles') || book.insertSheet('Articles');
}
