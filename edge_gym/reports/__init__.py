"""Charts, pictures, pages and descriptions; nothing else imports them."""
