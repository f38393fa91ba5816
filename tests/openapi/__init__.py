"""The API's description against the API: routes, codes, events, answers, the page, and a search for breaches."""
