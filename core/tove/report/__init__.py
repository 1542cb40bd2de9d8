"""What a run leaves for people to read: `report.html`, its pictures, and the words around them."""
