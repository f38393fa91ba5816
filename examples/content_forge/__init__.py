"""Articles as jobs over plain REST, for clients that know no streams: WordPress, n8n, Apps Script, webhooks."""
