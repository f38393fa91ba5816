"""A summariser of PDFs whose progress hundreds of clients poll, and which answers questions about the document."""
