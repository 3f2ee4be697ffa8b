"""What people see: mitmweb, content views, consoles, reports."""
